"""The vocabulary of a run: there and back, and what is said of a file that does not match."""
import numpy as np
import pytest

from experiments import datasets, vocabulary


def test_there_and_back(tmp_path):
  names = ('<eos>', 'naïve', 'a', '\n')
  vocabulary.write(tmp_path, names)
  assert vocabulary.read(tmp_path, 4) == names
  vocabulary.write(tmp_path / 'none', ())
  assert not (tmp_path / 'none').exists()


def test_images_have_none_and_texts_have_theirs():
  assert vocabulary.of(datasets.load('digits')) == ()
  reviews = datasets.load('embedded_reviews')
  assert vocabulary.of(reviews) == reviews.vocabulary
  text = datasets.load('embedded_words').windows(4, 5)
  assert vocabulary.of(text) == text.class_names and '<eos>' in text.class_names
  assert np.all(text.train_images < len(vocabulary.of(text)))


@pytest.mark.parametrize('content, message', [
    (None, 'vocabulary.json is missing'), (b'["a", ', 'vocabulary.json is damaged'),
    (b'\xff', 'vocabulary.json is damaged'), (b'{"a": 1}', 'is no list of words'),
    (b'["a", 3]', 'is no list of words'),
    (b'["a", "b", "c"]', 'names 3 different words, the network knows 2: it is of another run'),
    (b'["a", "a"]', 'names 1 different words, the network knows 2'),
])
def test_files_that_are_not_of_this_network(tmp_path, content, message):
  if content is not None:
    (tmp_path / vocabulary.FILE).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    vocabulary.read(tmp_path, 2)
