"""`load` by name: what is known, and what is said of a name that is not."""
import pytest

from experiments import datasets

NAMES = ('digits', 'embedded_reviews', 'embedded_text', 'embedded_text_stream', 'embedded_words',
         'fashion_mnist', 'imdb', 'mnist', 'ptb_char', 'ptb_char_windows', 'ptb_word',
         'ptb_word_2000', 'tiny_shakespeare', 'tiny_shakespeare_stream')


def test_names_are_sorted_and_each_is_a_data_set_of_that_name():
  assert datasets.names() == NAMES
  for name in ('digits', *(name for name in NAMES if name.startswith('embedded'))):
    assert datasets.load(name).name == name


@pytest.mark.parametrize('name, near', [
    ('minst', 'mnist'), ('MNIST', 'mnist'), ('digit', 'digits'), ('fashion-mnist', 'fashion_mnist'),
    ('Fashion_MNIST', 'fashion_mnist'), ('ptb_words', 'ptb_word'), ('IMDB', 'imdb'),
])
def test_misspelt_name_suggests_the_nearest(name, near):
  with pytest.raises(ValueError) as caught:
    datasets.load(name)
  assert str(caught.value) == (f"unknown data set '{name}'; known are {', '.join(NAMES)}; did you "
                               f"mean '{near}'?")


def test_a_name_like_none_lists_them_without_a_guess():
  with pytest.raises(ValueError) as caught:
    datasets.load('xyz')
  assert str(caught.value) == f"unknown data set 'xyz'; known are {', '.join(NAMES)}"
