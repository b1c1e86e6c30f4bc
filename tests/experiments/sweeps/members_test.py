"""Members of a sweep: their configs, their names, and what a folder remembers of them."""
import ml_collections
import pytest

from experiments import workdir
from experiments.configs.digits import l0_mlp
from experiments.sweeps import members

RATE, STRENGTH = 'optimiser.learning_rate', 'regulariser.gates.strength'


def names(overrides, known=None):
  return [member.name for member in members.members_of(l0_mlp.get_config(), overrides, known)]


def test_a_member_is_the_config_with_its_fields():
  base = l0_mlp.get_config()
  one, = members.members_of(base, [{'seed': 3, STRENGTH: 2, 'model.widths': [30, 10]}])
  wanted = l0_mlp.get_config()
  wanted.seed, wanted.regulariser.gates.strength, wanted.model.widths = 3, 2.0, (30, 10)
  assert workdir.config_hash(one.config) == workdir.config_hash(wanted)
  assert type(one.config.regulariser.gates.strength) is float
  assert one.config.model.widths == (30, 10) and type(one.config.model.widths) is tuple
  assert base.seed == 0


def test_names_are_short_and_tell_members_apart():
  assert names([{'seed': 0, STRENGTH: 0.026826957952797}, {}]) == [
      'seed=0,strength=0.02683', 'base']
  assert names([{'regulariser.gates.beta': 0.5, 'model.widths': (30, 10), 'dataset': 'a/b'}]) == [
      'beta=0.5,widths=30-10,dataset=a_b']
  assert names([{STRENGTH: 0.10001}, {STRENGTH: 0.100011}]) == ['strength=0.1',
                                                               'strength=0.100011']
  base = l0_mlp.get_config()
  base.regulariser.biases = {'leaves': '.*bias', 'method': 'weight_decay', 'strength': 0.1}
  found = members.members_of(base, [{STRENGTH: 0.1, 'regulariser.biases.strength': 0.2}])
  assert found[0].name == 'gates.strength=0.1,biases.strength=0.2'
  long, = names([{'dataset': 'x' * 300}])
  assert len(long) == members.LONGEST


def test_known_members_keep_their_names():
  known = {'old': {'seed': 1, STRENGTH: 1.0}}
  assert names([{STRENGTH: 1, 'seed': 1}, {STRENGTH: 2, 'seed': 1}], known) == [
      'old', 'strength=2,seed=1']
  # A name that means something else is not given again.
  assert names([{'seed': 2}], {'seed=2': {'seed': 9}}) == ['seed=2-' + names(
      [{'seed': 2}], {'seed=2': {'seed': 9}})[0][-8:]]


@pytest.mark.parametrize(('overrides', 'words'), [
    ([], 'the sweep is empty'),
    ([{'sed': 1}], "has no field 'sed'; did you mean 'seed'"),
    ([{'regulariser.gate.strength': 1}], "did you mean 'gates'"),
    ([{'seed.x': 1}], "has no field 'seed.x'; .* there are no fields"),
    ([{'regulariser.gates': 1}], 'is a group of fields, .*strength'),
    ([{'seed': 0.5}], r'seed=0.5 is of type float, and the config has int'),
    ([{'dataset': 3}], 'the config has str'),
    ([{STRENGTH: True}], 'is of type bool'),
    ([{'seed': 1}, {'seed': 1}], 'give the same config'),
    ([{'seed': 0}, {}], 'give the same config'),
])
def test_what_cannot_be_overridden_is_named(overrides, words):
  with pytest.raises(ValueError, match=words):
    names(overrides)


def test_the_record_grows_and_refuses_another_config(tmp_path):
  base = l0_mlp.get_config()
  first, everyone = members.plan(tmp_path, base, [{'seed': 0}, {'seed': 1}])
  assert first == everyone and not list(tmp_path.iterdir())
  members.write_record(tmp_path, 'l0_mlp.py', base, everyone)
  again, everyone = members.plan(tmp_path, base, [{'seed': 1}, {'seed': 1, RATE: 0.1}])
  assert [member.name for member in again] == ['seed=1', 'seed=1,learning_rate=0.1']
  members.write_record(tmp_path, 'l0_mlp.py', base, everyone)
  found = members.recorded_members(tmp_path)
  assert [member.name for member in found] == ['seed=0', 'seed=1', 'seed=1,learning_rate=0.1']
  for member, wanted in zip(found, [first[0], *again], strict=True):
    assert workdir.config_text(member.config) == workdir.config_text(wanted.config)
  base.epochs = 7
  with pytest.raises(ValueError, match='holds a sweep of another config(.|\n)*epochs: 400 -> 7'):
    members.plan(tmp_path, base, [{'seed': 5}])
  (tmp_path / members.SWEEP_FILE).write_text('{"base": 1')
  with pytest.raises(ValueError, match='sweep.json is damaged'):
    members.read_record(tmp_path)
  with pytest.raises(ValueError, match='holds no sweep'):
    members.recorded_members(tmp_path / 'nowhere')


def test_a_list_in_the_config_is_no_part_of_the_members():
  config = l0_mlp.get_config()
  config.sweep = ({'seed': 4},)
  config.lock()
  assert 'sweep' not in members.base_config(config)
  assert isinstance(members.base_config(config), ml_collections.ConfigDict)
