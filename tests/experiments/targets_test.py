"""Targets of configs: what they refuse, how the density is steered, and a run that tells of it."""
import io

import jax
import ml_collections
import pytest
from rich.console import Console

from experiments import build, run, targets
from experiments.evidence.configs import load_config
from sparsejax.targeted import CONTROL


def config(**target):
  made = load_config('digits/l0_mlp:smoke')
  made.model.widths = (12,)
  made.ema_decay = 0.0              # an average of no step is none
  made.target = target
  return made


@pytest.mark.parametrize('target, message', [
    ({'densty': 0.1}, "has no field 'densty'; did you mean 'density'"),
    ({}, 'needs one of density, bytes, validation_error_percent; it has none'),
    ({'density': 0.1, 'bytes': 100}, 'it has density and bytes'),
    ({'density': 0.0}, 'density=0.0 must be above 0 and at most 1'),
    ({'density': 2}, 'density=2 must be above 0 and at most 1'),
    ({'bytes': float('inf')}, 'bytes=inf must be above 0'),
    ({'validation_error_percent': 101}, 'must be above 0 and at most 100'),
    ({'density': 0.1, 'rules': ('gate',)}, "'gate' is no rule; did you mean 'gates'"),
    ({'density': 0.1, 'steering': 0}, 'steering=0 must be True or False'),
    ({'density': 0.1, 'landing_epochs': 3}, 'landing_epochs=3 must be from 0, for none, to'),
])
def test_a_target_that_does_not_hold_together_is_refused(target, message):
  with pytest.raises(ValueError, match=message):
    targets.read(config(**target))


def test_a_strength_that_cannot_be_moved_is_refused():
  scheduled = config(density=0.1)
  with scheduled.unlocked():
    scheduled.regulariser.gates = {**scheduled.regulariser.gates.to_dict(), 'strength': {
        'schedule': 'piecewise_linear', 'epochs': (0, 1), 'values': (0.0, 1.0)}}
  with pytest.raises(ValueError, match='must be a number above 0 for config.target to move it'):
    targets.read(scheduled)
  scheduled.regulariser = ml_collections.ConfigDict({'decay': {
      'leaves': '.*', 'method': 'weight_decay', 'strength': 1.0}})
  with pytest.raises(ValueError, match='finds no rule with a strength to move; rules are decay'):
    targets.read(scheduled)


def test_early_stopping_beside_a_target_is_refused():
  made = config(density=0.1)
  with made.unlocked():
    made.early_stopping = {'patience': 2}
  with pytest.raises(ValueError, match='may lie before config.target is met; leave one'):
    targets.read(made)


def test_an_error_needs_held_out_examples():
  made = config(validation_error_percent=5.0)
  made.validation_examples = 0
  data, recipe, _ = run.begin(made)
  with pytest.raises(ValueError, match='needs held-out examples'):
    targets.Steering(made, recipe, data)


@pytest.mark.parametrize('error, factor', [
    (1.0, 0.95), (1.7, 0.95), (1.9, 1.0), (2.0, 1.0), (2.1, 1.05), (2.3, 1.10), (9.0, 1.25)])
def test_the_density_follows_the_error(error, factor):
  assert targets.next_density(0.1, error, 2.0) == pytest.approx(0.1 * factor)


@pytest.mark.parametrize('exponent', [1.0, 1.5, 2.0])
def test_a_power_law_of_bytes_is_inverted(exponent):
  dense, header = 200_000, 400

  def size(density):
    return targets.FileBytes(round(dense * density**exponent) + header, header, dense)
  found = targets.density_of_bytes(0.3, size(0.05).whole, size(0.3))
  assert found == pytest.approx(0.05, rel=1e-3)


def test_in_a_landing_each_weight_costs_the_same():
  size = targets.FileBytes(10_400, 400, 200_000)
  assert targets.density_of_bytes(0.05, 5_400, size, landed=True) == pytest.approx(0.025)


def test_methods_without_a_ranking_do_not_land():
  made = config(density=0.1)
  assert targets.landing_epoch(made) == 1.2
  made.target.landing_epochs = 0
  assert targets.landing_epoch(made) == 2
  made.target.landing_epochs = 1
  made.regulariser.gates.method = 'soft_weight_sharing'
  assert targets.landing_epoch(made) == 2
  made.target.steering = False
  with pytest.raises(ValueError, match='without a landing leaves nothing to do; landing_epochs'):
    targets.steered(made, None, 10)


def test_bytes_are_steered_carefully_from_the_dense_network():
  made = config(bytes=1000)
  data, recipe, state = run.begin(made)
  size = targets.file_bytes(recipe, state, (1, *data.images.shape[1:]))
  assert 0 < size.header < 1000 < size.whole
  assert size.dense >= 4 * (64 * 12 + 12 * 10 + 22)
  after = targets.Steering(made, recipe, data).after(1, state)
  # All gates are open at the start.
  assert float(after.method_state[CONTROL]['density']) == pytest.approx(
      ((1000 - size.header) / (size.whole - size.header)) ** 0.5, rel=1e-5)
  with_density = targets.Steering(config(density=0.5), recipe, data)
  assert with_density.after(1, state) is state


def test_only_the_rules_named_are_moved():
  made = load_config('LoWK17/lenet_300_100:smoke')
  made.target = {'density': 0.1, 'rules': ('hidden',)}
  method = build.recipe(made, run.begin(made)[0].images).regulariser
  _, state = jax.eval_shape(method.init, jax.random.key(0), {
      name: {'kernel': jax.ShapeDtypeStruct(shape, 'float32')}
      for name, shape in (('dense0', (64, 300)), ('dense1', (300, 100)), ('head', (100, 10)))})
  assert list(state[CONTROL]['base']) == ['hidden.strength']


def test_a_run_tells_how_near_it_came(tmp_path):
  made = config(density=0.5)
  sheet = run.run(made, tmp_path / 'run', 'test', Console(file=io.StringIO(), width=200))
  reached = sheet['weights_kept'] / sheet['weights_total']
  assert (sheet['target'], sheet['target_value']) == ('density', 0.5)
  assert sheet['target_reached'] == reached
  assert sheet['target_relative_difference'] == pytest.approx(reached / 0.5 - 1)
  # Nothing closes in so few steps by itself. A unit is 10 of 888 weights, and a pixel up to 12.
  assert abs(reached - 0.5) <= 6 / 888
  assert sheet['target_natural_density'] == 1.0
  assert sheet['target_weights_cut'] == sheet['weights_total'] - sheet['weights_kept']
  assert sheet['target_weights_reopened'] == 0
  assert sheet['warnings'] == ["rule 'gates': no gate has closed in 1 of 2 epochs; raise its "
                               'strength (0.1), its drop_rate or the learning rate']
