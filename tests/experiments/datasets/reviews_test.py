"""Reviews as word numbers: by hand, what is refused, and the made-up set by its own rule."""
import numpy as np
import pytest

from experiments import datasets
from experiments.datasets import reviews
from experiments.datasets.reviews import MARKS, Reviews

VOCABULARY = (*MARKS, 'good', 'film')


def test_the_vocabulary_is_by_frequency_then_by_code_points():
  texts = [['b', 'c', 'a'], ['c', 'b', 'c'], ['d']]
  assert reviews.vocabulary_of(texts, 3) == (*MARKS, 'c', 'b', 'a')
  assert reviews.vocabulary_of(texts, 100) == (*MARKS, 'c', 'b', 'a', 'd')
  with pytest.raises(ValueError, match='words=0 of the vocabulary; give 1 to 65533'):
    reviews.vocabulary_of(texts, 0)


@pytest.mark.parametrize('keep, expected', [
    ('first', [[1, 3, 4], [1, 2, 3], [1, 0, 0], [1, 4, 0]]),
    ('last', [[1, 3, 4], [3, 4, 3], [1, 0, 0], [1, 4, 0]]),
])
def test_numbers_by_hand(keep, expected):
  texts = [['good', 'film'], ['a', 'good', 'film', 'good'], [], ['film']]
  found = reviews.encode(texts, VOCABULARY, 3, keep)
  np.testing.assert_array_equal(found, expected)
  assert found.dtype == np.uint8


def test_what_cannot_be_encoded():
  with pytest.raises(ValueError, match="keep='middle' is not 'first' or 'last'"):
    reviews.encode([['good']], VOCABULARY, 3, 'middle')
  with pytest.raises(ValueError, match='length=0 of a text must be at least 1'):
    reviews.encode([['good']], VOCABULARY, 0)


@pytest.mark.parametrize('changes, message', [
    ({'train_images': np.full((2, 3), 5, np.uint8)}, 'the highest number 5; need at least one, and '
                                                     '0 to 4'),
    ({'train_images': np.zeros((2, 3), np.uint16)}, r'tiny/train: texts are uint16 \(2, 3\); need '
                                                    'uint8'),
    ({'train_images': np.zeros((3, 3), np.uint8)}, '3 images but 2 labels'),
    ({'test_labels': np.full(2, 2, np.int32)}, 'labels run from 2 to 2; need 0 to 1'),
    ({'vocabulary': ('good', 'film')}, 'a vocabulary of 2 words that begins with'),
    ({'test_images': np.zeros((2, 4), np.uint8)}, 'training images are'),
])
def test_arrays_that_are_no_reviews(changes, message):
  tokens, labels = np.zeros((2, 3), np.uint8), np.zeros(2, np.int32)
  fields = {'name': 'tiny', 'classes': 2, 'class_names': ('n', 'p'), 'train_images': tokens,
            'train_labels': labels, 'test_images': tokens, 'test_labels': labels,
            'vocabulary': VOCABULARY}
  with pytest.raises(ValueError, match=message):
    Reviews(**fields | changes)


def test_one_word_decides_a_made_up_review():
  found = datasets.load('embedded_reviews')
  assert found.train_images.shape == (800, 12) and found.test_images.shape == (200, 12)
  good = [found.vocabulary.index(word) for word in ('lovely', 'moving', 'superb')]
  bad = [found.vocabulary.index(word) for word in ('dull', 'awful', 'clumsy')]
  tokens = np.concatenate([found.train_images, found.test_images])
  labels = np.concatenate([found.train_labels, found.test_labels])
  np.testing.assert_array_equal(np.isin(tokens, good).sum(1), labels)
  np.testing.assert_array_equal(np.isin(tokens, bad).sum(1), 1 - labels)
  assert 0.4 < labels.mean() < 0.6                      # a fair coin: six deviations are 0.1
