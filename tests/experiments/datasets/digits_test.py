"""The embedded digits against scikit-learn's arrays: scaling, split, and a fixed fingerprint."""
import numpy as np
import sklearn.datasets

from experiments import datasets


def test_shapes_and_types():
  d = datasets.load('digits')
  assert (d.name, d.classes) == ('digits', 10)
  assert d.train_images.shape == (1437, 8, 8, 1) and d.test_images.shape == (360, 8, 8, 1)
  assert d.train_labels.shape == (1437,) and d.test_labels.shape == (360,)
  assert d.train_images.dtype == np.uint8 and d.train_labels.dtype == np.int32
  assert 'split' in d.note


def test_parts_make_up_the_whole_set_with_its_labels():
  d, bunch = datasets.load('digits'), sklearn.datasets.load_digits()
  images = np.concatenate([d.train_images, d.test_images])[..., 0]
  ink = np.rint(images.astype(np.float64) * 16 / 255)
  assert np.abs(images - ink * 255 / 16).max() <= 0.5      # the nearest of the 256 levels
  assert images.min() == 0 and images.max() == 255
  labels = np.concatenate([d.train_labels, d.test_labels])
  ours = np.concatenate([ink.reshape(-1, 64), labels[:, np.newaxis]], axis=1)
  theirs = np.concatenate([bunch.data, bunch.target[:, np.newaxis]], axis=1)
  np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_no_image_is_in_both_parts():
  d = datasets.load('digits')
  bunch = sklearn.datasets.load_digits()
  assert len(np.unique(bunch.data, axis=0)) == 1797    # no duplicates: bytes identify an image
  train, test = ({i.tobytes() for i in part} for part in (d.train_images, d.test_images))
  assert not train & test


def test_split_is_stratified():
  d, bunch = datasets.load('digits'), sklearn.datasets.load_digits()
  fair = np.bincount(bunch.target) * 360 / 1797        # of each class, in fractions of an example
  assert np.abs(np.bincount(d.test_labels) - fair).max() < 1


def test_split_is_the_same_each_time_and_in_each_version():
  # What the arrays hold is tested above; this digest keeps scores comparable between versions.
  expected = '2a1f5522013137586ed9f65d1595978b81a1f6c6211b677f26c0f3de9b715dd6'
  assert datasets.load('digits').hash == expected
  assert datasets.load('digits', data_dir='/nonexistent').hash == expected      # needs no folder
