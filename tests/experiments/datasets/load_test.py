"""`load` by name: what is known, and what is said of a name that is not."""
import pytest

from experiments import datasets


def test_names_are_sorted_and_each_is_a_data_set_of_that_name():
  assert datasets.names() == ('digits', 'embedded_text', 'fashion_mnist', 'mnist',
                              'tiny_shakespeare')
  assert datasets.load('digits').name == 'digits'


@pytest.mark.parametrize('name, near', [
    ('minst', 'mnist'), ('MNIST', 'mnist'), ('digit', 'digits'), ('fashion-mnist', 'fashion_mnist'),
    ('Fashion_MNIST', 'fashion_mnist'),
])
def test_misspelt_name_suggests_the_nearest(name, near):
  with pytest.raises(ValueError) as caught:
    datasets.load(name)
  assert str(caught.value) == (f"unknown data set '{name}'; known are digits, embedded_text, "
                               f"fashion_mnist, mnist, tiny_shakespeare; did you mean '{near}'?")


def test_a_name_like_none_lists_them_without_a_guess():
  with pytest.raises(ValueError) as caught:
    datasets.load('xyz')
  assert str(caught.value) == ("unknown data set 'xyz'; known are digits, embedded_text, "
                               'fashion_mnist, mnist, tiny_shakespeare')
