"""Streams in time order: the cut by hand, nothing lost but the ends, what is refused."""
import numpy as np
import pytest

from experiments import datasets
from experiments.datasets import continuous_text, text
from experiments.datasets.continuous_text import ContinuousText


def tiny(train=26, validation=9, test=13, classes=30):
  parts = {name: np.arange(count, dtype=np.uint8)
           for name, count in (('train', train), ('validation', validation), ('test', test))}
  return ContinuousText('tiny', classes, class_names=tuple(map(str, range(classes))), **parts)


def test_windows_and_labels_by_hand():
  found = tiny().windows(batch=2, length=4)
  # 26 symbols: 25 have a label, three steps of two windows of four are whole: 0-11 and 12-23.
  np.testing.assert_array_equal(found.train_images, [
      [0, 1, 2, 3], [12, 13, 14, 15],
      [4, 5, 6, 7], [16, 17, 18, 19],
      [8, 9, 10, 11], [20, 21, 22, 23]])
  np.testing.assert_array_equal(found.train_labels, found.train_images + 1)
  np.testing.assert_array_equal(found.validation_images, [[0, 1, 2, 3], [4, 5, 6, 7]])
  np.testing.assert_array_equal(found.test_images, [[0, 1, 2, 3], [4, 5, 6, 7]])
  assert found.train_images.dtype == np.uint8 and found.train_labels.dtype == np.int32
  assert found.note.endswith('left out at the ends: 1 train, 0 validation, 4 test symbols')


def test_reshaped_to_steps_and_streams_each_stream_is_a_stretch_of_the_text():
  content = np.random.default_rng(0).integers(0, 5, 200).astype(np.uint8)
  whole = ContinuousText('tiny', 5, content, content, content, tuple('abcde'))
  found = whole.windows(3, 7)
  streams = found.train_images.reshape(-1, 3, 7).swapaxes(0, 1).reshape(3, -1)
  np.testing.assert_array_equal(streams.reshape(-1), content[:streams.size])
  labels = found.train_labels.reshape(-1, 3, 7).swapaxes(0, 1).reshape(-1)
  np.testing.assert_array_equal(labels, content[1:streams.size + 1])


def test_words_are_numbered_by_the_vocabulary():
  words = {'train': ['b', 'a', 'b'], 'validation': ['a'], 'test': ['b', 'b']}
  found = continuous_text.encode('tiny', words, ['b', 'a'])
  np.testing.assert_array_equal(found.train, [0, 1, 0])
  assert (found.classes, found.class_names, found.test.dtype) == (2, ('b', 'a'), np.uint8)
  many = continuous_text.encode('tiny', words, ['b', 'a', *map(str, range(300))])
  assert many.train.dtype == np.uint16


def test_an_unknown_symbol_is_named_with_its_place():
  with pytest.raises(ValueError, match="tiny/test: symbol 1 is 'c', which is none of the 2 of the "
                                       'vocabulary'):
    continuous_text.encode('tiny', {'train': 'ab', 'validation': 'a', 'test': 'acb'}, 'ab')


@pytest.mark.parametrize('batch, length, message', [
    (0, 4, 'batch=0 and length=4 must be at least 1'), (2, 0, 'length=0 must be at least 1'),
    (3, 4, 'tiny/validation has 9 symbols, too few for one step of 3 windows of 4'),
    (1, 100, 'tiny/train has 26 symbols, too few for one step of 1 windows of 100'),
])
def test_windows_that_do_not_fit(batch, length, message):
  with pytest.raises(ValueError, match=message):
    tiny().windows(batch, length)


@pytest.mark.parametrize('changes, message', [
    ({'train': np.zeros((2, 2), np.uint8)}, r'tiny/train: symbols are uint8 \(2, 2\)'),
    ({'test': np.zeros(2, np.int32)}, r'tiny/test: symbols are int32 \(2,\); need uint8'),
    ({'validation': np.zeros(0, np.uint8)}, r'tiny/validation: symbols are uint8 \(0,\)'),
    ({'test': np.full(2, 3, np.uint8)}, 'tiny/test: the highest symbol is 3; need 0 to 2'),
    ({'class_names': ('a',)}, '1 symbols named for 3 classes'),
])
def test_arrays_that_are_no_text(changes, message):
  part = np.zeros(2, np.uint8)
  fields = {'name': 'tiny', 'classes': 3, 'train': part, 'validation': part, 'test': part,
            'class_names': ('a', 'b', 'c')}
  with pytest.raises(ValueError, match=message):
    ContinuousText(**fields | changes)


@pytest.mark.parametrize('name, space, newline', [('embedded_text_stream', '', '\n'),
                                                  ('embedded_words', ' ', ' <eos> ')])
def test_the_embedded_texts_read_as_verses(name, space, newline):
  found = datasets.load(name)
  lines = space.join(found.class_names[i] for i in found.test).split(newline)
  assert {line.removesuffix(' <eos>') for line in lines if line} == {
      verse.removesuffix('\n') for verse in text.VERSES}
