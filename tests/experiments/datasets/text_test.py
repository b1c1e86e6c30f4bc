"""Text in windows: the cut by hand, what is refused, and the real file where it is at hand."""
import dataclasses
import hashlib

import numpy as np
import pytest

from experiments import datasets
from experiments.datasets import fetch, text


def test_windows_and_labels_by_hand():
  found = text.from_texts('tiny', 'abcabca', 'caab', window=3)
  assert (found.classes, found.class_names) == (3, ('a', 'b', 'c'))
  np.testing.assert_array_equal(found.train_images, [[0, 1, 2], [0, 1, 2]])
  np.testing.assert_array_equal(found.train_labels, [[1, 2, 0], [1, 2, 0]])
  np.testing.assert_array_equal(found.test_images, [[2, 0, 0]])
  np.testing.assert_array_equal(found.test_labels, [[0, 0, 1]])
  assert found.train_images.dtype == np.uint8 and found.train_labels.dtype == np.int32
  # The last symbol of 'abcabc' has no label, so that only one window is whole.
  assert len(text.from_texts('tiny', 'abcabc', 'caab', window=3).train_images) == 1


def test_the_hash_is_of_the_arrays_and_the_arrays_are_read_only():
  found = text.from_texts('tiny', 'abab', 'baba', window=2)
  digest = hashlib.sha256()
  for field, dtype in (('train_images', '|u1'), ('train_labels', '<i4'), ('test_images', '|u1'),
                       ('test_labels', '<i4')):
    array = getattr(found, field)
    digest.update(f'{field} {array.dtype.name} 1,2\n'.encode() + array.astype(dtype).tobytes())
  assert found.hash == digest.hexdigest()
  assert found.hash == text.from_texts('other', 'abab', 'baba', window=2).hash
  with pytest.raises(ValueError, match='read-only'):
    found.train_labels[0] = 1


def test_windows_are_held_out_whole():
  found = datasets.load('embedded_text')
  windows, labels, held, held_labels = datasets.hold_out(found, 100, seed=3)
  assert windows.shape == labels.shape == (667, 16) and held.shape == held_labels.shape == (100, 16)
  np.testing.assert_array_equal(windows[:, 1:], labels[:, :-1])
  np.testing.assert_array_equal(held[:, 1:], held_labels[:, :-1])


@pytest.mark.parametrize('arguments, message', [
    (('ab', 'abc', 2), 'tiny/train has 2 symbols, too few for a window of 2'),
    (('abc', 'ab', 2), 'tiny/test has 2 symbols'),
    (('abc', 'abc', 0), 'window=0 must be at least 1'),
])
def test_texts_that_cannot_be_cut(arguments, message):
  with pytest.raises(ValueError, match=message):
    text.from_texts('tiny', *arguments)


def test_more_symbols_than_a_byte_holds_take_two():
  text_of_300 = ''.join(map(chr, range(1000, 1300)))
  found = text.from_texts('tiny', text_of_300, text_of_300[:3], window=1)
  assert found.classes == 300 and found.train_images.dtype == np.uint16
  np.testing.assert_array_equal(found.train_images[:, 0], np.arange(299))


def test_a_published_validation_part_has_the_same_symbols_and_is_in_the_hash():
  found = text.from_texts('tiny', 'abab', 'baba', 2, validation='abc')
  assert found.class_names == ('a', 'b', 'c')
  np.testing.assert_array_equal(found.validation_images, [[0, 1]])
  np.testing.assert_array_equal(found.validation_labels, [[1, 2]])
  assert found.hash != text.from_texts('tiny', 'abab', 'baba', 2, validation='aba').hash
  assert text.from_texts('tiny', 'abab', 'baba', 2).validation_images is None
  with pytest.raises(ValueError, match='read-only'):
    found.validation_labels[0] = 1


def fields(**changes):
  windows, labels = np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.int32)
  return {'name': 'tiny', 'classes': 2, 'train_images': windows, 'train_labels': labels,
          'test_images': windows, 'test_labels': labels, 'class_names': ('a', 'b')} | changes


@pytest.mark.parametrize('changes, message', [
    ({'class_names': ('a',)}, '1 symbols named for 2 classes'),
    ({'train_images': np.zeros((2, 3), np.int32)}, r'tiny/train: windows are int32 \(2, 3\)'),
    ({'test_labels': np.zeros(2, np.int32)}, r'tiny/test: labels are int32 \(2,\)'),
    ({'test_labels': np.full((2, 3), 2, np.int32)}, 'tiny/test: symbols run from 0 to 2'),
    ({'test_images': np.full((2, 3), 9, np.uint8)}, 'tiny/test: symbols run from 0 to 9'),
    ({'train_labels': np.full((2, 3), -1, np.int32)}, 'tiny/train: symbols run from -1 to 0'),
    ({'test_images': np.zeros((2, 4), np.uint8), 'test_labels': np.zeros((2, 4), np.int32)},
     'training windows have 3 symbols, test windows 4'),
    ({'train_images': np.zeros((0, 3), np.uint8), 'train_labels': np.zeros((0, 3), np.int32)},
     'tiny/train: no symbols'),
    ({'validation_images': np.zeros((2, 3), np.uint8)}, 'validation windows and their labels one'),
    ({'validation_images': np.zeros((2, 4), np.uint8),
      'validation_labels': np.zeros((2, 4), np.int32)}, 'validation: windows have 4 symbols'),
    ({'validation_images': np.full((2, 3), 7, np.uint8),
      'validation_labels': np.zeros((2, 3), np.int32)}, 'validation: symbols run from 0 to 7'),
])
def test_arrays_that_are_no_text(changes, message):
  with pytest.raises(ValueError, match=message):
    text.Text(**fields(**changes))


def test_the_split_is_at_nine_tenths(tmp_path, monkeypatch):
  content = 'abcdefghij' * 20
  monkeypatch.setattr(text, 'TINY_SHAKESPEARE', dataclasses.replace(
      text.TINY_SHAKESPEARE, size=200, sha256=hashlib.sha256(content.encode()).hexdigest()))
  path = tmp_path / 'tinyshakespeare' / 'input.txt'
  path.parent.mkdir()
  path.write_text(content)
  found = text.load_tiny_shakespeare(tmp_path, window=10)
  assert (len(found.train_images), len(found.test_images)) == (17, 1)   # 180 and 20 symbols
  assert found.name == 'tiny_shakespeare' and 'windows of 10 symbols' in found.note
  path.write_text(content[:-1])
  with pytest.raises(ValueError, match='input.txt is truncated'):
    text.load_tiny_shakespeare(tmp_path)


def test_the_real_text_where_it_is_at_hand():
  if not (fetch.data_folder() / text.TINY_SHAKESPEARE.path).exists():
    pytest.skip(f'{text.TINY_SHAKESPEARE.path} is not in {fetch.data_folder()}; point '
                'SPARSEJAX_DATA_DIR to a folder that has it')
  found = datasets.load('tiny_shakespeare')
  assert found.classes == 65                           # as its author counts them
  # 1,115,394 symbols: 1,003,854 and 111,540.
  assert found.train_images.shape == (1_003_853 // 64, 64) == (15_685, 64)
  assert found.test_images.shape == (111_539 // 64, 64) == (1_742, 64)
  first = ''.join(found.class_names[i] for i in found.train_images[0])
  assert first.startswith('First Citizen:\nBefore we proceed any further, hear me speak.')
