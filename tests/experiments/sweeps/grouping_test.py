"""Members are grouped by the programs they compile to."""
import pytest

from experiments.configs.digits import l0_mlp
from experiments.sweeps import grouping
from experiments.sweeps.members import members_of

GATES = 'regulariser.gates.'


def small():
  config = l0_mlp.get_config('smoke')
  config.model.widths = (5,)
  return config


def groups(overrides, base=None):
  members = members_of(small() if base is None else base, overrides)
  found = grouping.programs(members)
  return [[members.index(member) for member in group] for group in found]


def test_what_lives_in_the_state_or_is_handed_in_shares_a_program():
  assert groups([
      {'seed': 3}, {GATES + 'strength': 3.0}, {'optimiser.learning_rate': 0.1},
      {GATES + 'beta': 0.5, 'seed': 1}, {GATES + 'drop_rate': 0.2}, {'penalty_weight': 0.5},
      {'model.kernel_init': 'lecun_normal', 'seed': 2}]) == [[1, 2, 4, 5, 3, 6, 0]]


def test_what_the_program_or_the_loop_reads_splits_the_sweep():
  overrides = [{'model.widths': (6,)}, {GATES + 'l2': 0.1}, {GATES + 'per': 'example'},
               {'ema_decay': 0.5}, {'epochs': 3}, {'optimiser.name': 'sgd'}, {'batch_size': 20},
               {'validation_examples': 100}, {'preprocess.scale': 0.5}, {}]
  assert groups(overrides) == [[index] for index in range(len(overrides))]


def test_members_with_early_stopping_run_alone():
  base = small()
  base.early_stopping = {'patience': 2}
  assert groups([{'seed': 0}, {'seed': 1}], base) == [[0], [1]]


def test_a_mistake_names_its_member():
  with pytest.raises(ValueError, match='member drop_rate=1.5: drop_rate=1.5 must lie between'):
    groups([{GATES + 'drop_rate': 1.5}])
