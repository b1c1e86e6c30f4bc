"""Known names, and the nearest one to what is not known."""
import pytest

from experiments.names import known_name, near, require_names


def test_the_nearest_name():
  assert near('mpl', ('mlp', 'convnet')) == "did you mean 'mlp'? "
  assert near('zzz', ('mlp', 'convnet')) == ''
  assert near(3, ('mlp',)) == '' and near('mlp', ()) == ''


def test_a_known_name_is_returned():
  assert known_name('b', ('a', 'b'), 'here') == 'b'
  assert known_name('b', {'b': 1}, 'here') == 'b'


def test_an_unknown_name_is_told_where_and_what_there_is():
  with pytest.raises(ValueError) as caught:
    known_name('convnt', {'mlp': 1, 'convnet': 2}, 'config.model.name')
  assert str(caught.value) == ("config.model.name='convnt' is unknown; did you mean 'convnet'? "
                               'choose one of convnet, mlp')


def test_fields_must_be_exactly_those_named():
  require_names({'a': 1, 'b': 2}, ('b', 'a'), 'here')
  require_names({}, (), 'here')
  for fields in ({'a': 1}, {'a': 1, 'b': 2, 'c': 3}, {'a': 1, 'c': 3}):
    with pytest.raises(ValueError, match=f'here needs the fields a, b, got {", ".join(fields)}$'):
      require_names(fields, ('a', 'b'), 'here')
