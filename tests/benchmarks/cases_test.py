import numpy as np
import pytest

from benchmarks import cases


def test_an_epoch_sees_no_image_twice():
  order = cases.batches(examples=100, batch_size=8, steps=3)
  assert order.shape == (4, 3, 8) and order.dtype == np.int32
  assert len(np.unique(order)) == order.size and order.min() >= 0 and order.max() < 100


def test_too_few_images_raise():
  with pytest.raises(ValueError, match='exceed the 23 images'):
    cases.batches(examples=23, batch_size=8, steps=3)


def test_images_are_mostly_dark_and_told_apart_by_their_class():
  data = cases.synthetic_data(examples=200)
  assert data.images.dtype == np.uint8 and data.images.shape == (200, 28, 28, 1)
  assert 0.75 < (data.images == 0).mean() < 0.85  # 7840 pixels lit with 1/5: sd 0.0045
  lit = (data.images > 0).reshape(200, -1)
  same = data.labels[:, None] == data.labels[None]
  np.testing.assert_array_equal((lit[:, None] == lit[None]).all(-1), same)
