"""The data set record and the held-out part, on a tiny set whose images tell their own index."""
import dataclasses
import hashlib

import numpy as np
import pytest

from experiments import datasets


def _tiny(train=20, test=6, **changes):
  count = train + test
  images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)    # image i starts at 4 i
  labels = (np.arange(count) % 3).astype(np.int32)
  fields = {'name': 'tiny', 'classes': 3, 'class_names': ('a', 'b', 'c'),
            'train_images': images[:train], 'train_labels': labels[:train],
            'test_images': images[train:], 'test_labels': labels[train:]}
  return datasets.Dataset(**(fields | changes))


def _indices(images):
  return images[:, 0, 0, 0] // 4


def test_hash_is_the_documented_digest():
  dataset = _tiny(train=2, test=1)
  # Written out: 2 and 1 images of 4 bytes counting up, labels 0, 1 and 2 as little-endian int32.
  text = (b'train_images uint8 2,2,2,1\n' + bytes(range(8)) +
          b'train_labels int32 2\n' + bytes([0, 0, 0, 0, 1, 0, 0, 0]) +
          b'test_images uint8 1,2,2,1\n' + bytes(range(8, 12)) +
          b'test_labels int32 1\n' + bytes([2, 0, 0, 0]))
  assert dataset.hash == hashlib.sha256(text).hexdigest()
  assert dataset.hash is dataset.hash              # cached


def test_hash_sees_values_shapes_and_split_but_not_layout_or_name():
  base = _tiny()
  pixels, labels = base.train_images.copy(), base.train_labels.copy()
  pixels[3, 1, 1, 0] ^= 1
  labels[5] = (labels[5] + 1) % 3
  wide = {'train_images': base.train_images.reshape(20, 1, 4, 1),
          'test_images': base.test_images.reshape(6, 1, 4, 1)}
  others = [_tiny(train_images=pixels), _tiny(train_labels=labels), _tiny(**wide), _tiny(21, 5)]
  assert len({d.hash for d in (base, *others)}) == 5
  assert _tiny(train_images=np.asfortranarray(base.train_images), name='other').hash == base.hash


def test_arrays_are_read_only_and_fields_frozen_but_the_callers_array_is_not():
  images = np.zeros((20, 2, 2, 1), np.uint8)
  dataset = _tiny(train_images=images)
  with pytest.raises(ValueError, match='read-only'):
    dataset.train_images[0] = 1
  with pytest.raises(dataclasses.FrozenInstanceError):
    dataset.name = 'other'
  assert images.flags.writeable


@pytest.mark.parametrize('changes, message', [
    ({'train_images': np.zeros((20, 2, 2, 1), np.float32)},
     r'tiny/train: images are float32 .* need uint8'),
    ({'test_images': np.zeros((6, 2, 2), np.uint8)},
     r'tiny/test: images are uint8 \(6, 2, 2\); need uint8 \(N, H, W, C\)'),
    ({'train_labels': np.zeros(20, np.int64)}, 'tiny/train: labels are int64 .* need int32'),
    ({'train_labels': np.zeros((20, 1), np.int32)},
     r'tiny/train: labels are int32 \(20, 1\); need int32 \(N,\)'),
    ({'train_labels': np.zeros(19, np.int32)}, 'tiny/train: 20 images but 19 labels'),
    ({'test_labels': np.full(6, 3, np.int32)}, 'tiny/test: labels run from 3 to 3; need 0 to 2'),
    ({'test_labels': np.full(6, -1, np.int32)}, 'labels run from -1 to -1; need 0 to 2'),
    ({'test_images': np.zeros((6, 3, 2, 1), np.uint8)},
     r'\(2, 2, 1\), test images \(3, 2, 1\); both must have the same'),
    ({'test_images': np.zeros((0, 2, 2, 1), np.uint8), 'test_labels': np.zeros(0, np.int32)},
     'tiny/test: no examples'),
    ({'class_names': ('a', 'b')}, 'tiny: 2 class names for 3 classes'),
])
def test_what_does_not_fit_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _tiny(**changes)


def test_hold_out_partitions_the_training_set():
  dataset = _tiny()
  x, y, vx, vy = datasets.hold_out(dataset, 7, seed=3)
  assert (x.shape, y.shape, vx.shape, vy.shape) == ((13, 2, 2, 1), (13,), (7, 2, 2, 1), (7,))
  assert x.dtype == vx.dtype == np.uint8 and y.dtype == vy.dtype == np.int32
  train, validation = _indices(x), _indices(vx)
  np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(20))
  np.testing.assert_array_equal(y, train % 3)            # each image keeps its label
  np.testing.assert_array_equal(vy, validation % 3)
  assert np.all(np.diff(train.astype(int)) > 0) and np.all(np.diff(validation.astype(int)) > 0)


def test_hold_out_is_a_function_of_the_seed_and_leaves_the_set_alone():
  dataset = _tiny()
  fields = ('train_images', 'train_labels', 'test_images', 'test_labels')
  before = [getattr(dataset, field).copy() for field in fields]
  first, again, other = (datasets.hold_out(dataset, 7, seed=s) for s in (3, 3, 4))
  for a, b in zip(first, again, strict=True):
    np.testing.assert_array_equal(a, b)
  assert set(_indices(first[2])) != set(_indices(other[2]))
  for field, array in zip(fields, before, strict=True):
    np.testing.assert_array_equal(getattr(dataset, field), array)


def test_hold_out_is_pinned_to_the_published_pcg64_stream():
  # Of the first 20 outputs in NumPy's own test vectors (pcg64-testset-1.csv, seed 0xdeadbeaf) the
  # smallest are number 9 (0x0cc0...), 7 (0x15f7...), 17 (0x26f1...), 8 (0x27e4...), 14 (0x30b5...).
  validation = datasets.hold_out(_tiny(), 5, seed=0xDEADBEAF)[2]
  np.testing.assert_array_equal(_indices(validation), [7, 8, 9, 14, 17])


def test_hold_out_is_uniform_over_examples():
  dataset, draws, held = _tiny(), 4000, 5
  counts = np.zeros(20)
  for seed in range(draws):
    counts[_indices(datasets.hold_out(dataset, held, seed)[2])] += 1
  # Each example is held out with p = 5/20: five standard deviations of a binomial count.
  p = held / 20
  np.testing.assert_array_less(np.abs(counts - draws * p), 5 * np.sqrt(draws * p * (1 - p)))


def test_hold_out_of_nothing_gives_all_for_training():
  dataset = _tiny()
  x, y, vx, vy = datasets.hold_out(dataset, 0, seed=0)
  np.testing.assert_array_equal(x, dataset.train_images)
  np.testing.assert_array_equal(y, dataset.train_labels)
  assert (vx.shape, vy.shape) == ((0, 2, 2, 1), (0,))
  assert vx.dtype == np.uint8 and vy.dtype == np.int32


@pytest.mark.parametrize('held', [20, 21, -1])
def test_hold_out_of_too_many_or_too_few_is_refused(held):
  message = f'validation_examples={held} of the 20 training examples of tiny; give 0 to 19'
  with pytest.raises(ValueError, match=message):
    datasets.hold_out(_tiny(), held, seed=0)


def test_hold_out_refuses_a_negative_seed_and_a_fraction():
  with pytest.raises(ValueError, match='seed=-1 of hold_out is negative'):
    datasets.hold_out(_tiny(), 5, seed=-1)
  with pytest.raises(TypeError):
    datasets.hold_out(_tiny(), 0.25, seed=0)
