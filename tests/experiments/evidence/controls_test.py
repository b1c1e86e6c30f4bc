"""Configs of controls, derived by hand here from a config and from what is left of a network."""
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from experiments import build
from experiments.evidence.configs import load_config
from experiments.evidence.controls import (ALL, ONE_WEIGHT, TRAINED, Examples, Facts, Settings,
                                           control_config, facts, why_not)
from experiments.evidence.equal_bytes import equal_bytes_fields
from sparsejax import codec
from sparsejax.models.lenet import MLP

SHAPE = (8, 8, 1)
DENSITIES = {'dense0/kernel': 0.125, 'dense1/kernel': 0.5, 'head/kernel': 1.0}
FOUND = Facts({'widths': (7, 5), 'classes': 10, 'kept_inputs': (1, 2, 40)}, DENSITIES, 0.25, 2.5,
              9000, 1234, True)
SINGLE = FOUND._replace(compacted=False, compact_fields={'widths': (300, 100), 'classes': 10})


def config_of(variant='vd', **changes):
  config = load_config(f'frontier/mlp:{variant}', 3)
  config.dataset = 'digits'
  with config.unlocked():
    config.choose = {'rule': 'weights', 'number': 'threshold', 'values': (1.0,),
                     'slack_percent': 0.1}
    config.update_from_flattened_dict(changes)
  return config


def derived(control, config=None, found=FOUND, settings=Settings()):
  config = config or config_of()
  before = config.to_json()
  made = control_config(control, config, found, settings, Examples(SHAPE))
  assert config.to_json() == before, 'the config of the network under test is left as it was'
  build.require_whole(made)
  build.model(made.model)
  build.optimiser(made.optimiser, 100)
  build.penalty_weight(made.penalty_weight, 100)
  assert 'choose' not in made
  return made.to_dict()


def changed(made, config=None):
  """The fields in which a derived config differs from the config of the network under test."""
  before = (config or config_of()).to_dict()
  del before['choose']
  assert made.keys() == before.keys()
  return {name: value for name, value in made.items() if before[name] != value}


# --- the configs ----------------------------------------------------------------------------------


def test_dense_is_the_same_training_without_a_method():
  assert changed(derived('dense')) == {'regulariser': {}, 'penalty_weight': 1.0}


@pytest.mark.parametrize('variant', ['l0', 'magnitude', 'group_lasso', 'rigl', 'l1_magnitude'])
def test_dense_is_without_any_method(variant):
  assert derived('dense', config_of(variant))['regulariser'] == {}


def test_what_makes_nothing_smaller_is_kept_and_its_weight_too():
  config = config_of()
  config.regulariser.decay = {'leaves': '.*bias', 'method': 'weight_decay', 'strength': 0.5}
  made = derived('dense', config)
  assert changed(made, config) == {'regulariser': {
      'decay': {'leaves': '.*bias', 'method': 'weight_decay', 'strength': 0.5}}}
  assert set(derived('random', config)['regulariser']) == {'decay', 'random'}


@pytest.mark.parametrize('control', ['scratch', 'distil'])
def test_the_compact_architecture_trains_as_many_times_longer_as_it_is_cheaper(control):
  made = changed(derived(control))
  assert made.pop('regulariser') == {} and made.pop('penalty_weight') == 1.0
  assert made.pop('model') == {'name': 'mlp', 'kernel_init': 'he_normal', 'widths': (7, 5),
                               'classes': 10, 'kept_inputs': (1, 2, 40)}
  # 10 epochs times 2.5; the rate falls from epoch 4 to 10, hence now from 10 to 25.
  assert made.pop('epochs') == made.pop('evaluate_every') == made.pop('checkpoint_every') == 25
  assert made.pop('optimiser') == {'name': 'adam', 'learning_rate': {
      'schedule': 'piecewise_linear', 'epochs': (10.0, 25.0), 'values': (2e-3, 0.0)}}
  assert made == {}


def test_the_longer_training_has_a_limit():
  found = FOUND._replace(flops_ratio=73.0)
  assert derived('scratch', found=found)['epochs'] == 100
  made = derived('scratch', found=found, settings=Settings(max_epochs_factor=3.0))
  assert made['epochs'] == 30
  assert made['optimiser']['learning_rate']['epochs'] == (12.0, 30.0)


def test_schedules_are_stretched_at_every_depth():
  config = config_of('iterative')       # rewound every 2 epochs, inside it linear from 0.8 to 2
  made = derived('scratch', config)
  rate = made['optimiser']['learning_rate']
  assert rate['epochs_per_round'] == 5.0
  np.testing.assert_allclose(rate['inner']['epochs'], (2.0, 5.0), rtol=1e-12)
  assert rate['inner']['values'] == (2e-3, 0.0)


def test_a_constant_rate_stays():
  config = config_of()
  config.optimiser = ml_collections.ConfigDict({'name': 'sgd', 'learning_rate': 0.1,
                                                'momentum': 0.9})
  assert derived('scratch', config)['optimiser'] == config.optimiser.to_dict()
  assert derived('rewind', config)['optimiser'] == config.optimiser.to_dict()


@pytest.mark.parametrize('control', ['scratch', 'distil'])
def test_a_network_that_was_not_compacted_has_no_compact_architecture(control):
  with pytest.raises(ValueError, match=f"the control '{control}' trains the compact architecture, "
                                       'but this network was not compacted: .*; take '
                                       "'dense', 'random', 'rewind', 'dense_small'$"):
    derived(control, found=SINGLE)
  for other in ('dense', 'random', 'rewind', 'dense_small'):
    derived(other, found=SINGLE)


def test_random_masks_have_the_densities_of_each_layer():
  made = derived('random')
  assert set(changed(made)) == {'regulariser', 'penalty_weight'}
  rules = build.regulariser(ml_collections.ConfigDict(made).regulariser, 100)
  shapes = {'dense0': (64, 300), 'dense1': (300, 100), 'head': (100, 10)}
  weights = {name: {'kernel': jnp.ones(shape), 'bias': jnp.zeros(shape[1])}
             for name, shape in shapes.items()}
  params, state = rules.init(jax.random.key(0), weights)
  drawn = rules.weights(params, state)
  for name, (rows, columns) in shapes.items():
    kept = int(np.count_nonzero(drawn[name]['kernel']))
    assert kept == DENSITIES[f'{name}/kernel'] * rows * columns


def test_rewind_cuts_the_epochs_into_equal_rounds():
  made = changed(derived('rewind', settings=Settings(rounds=4)))
  assert 'epochs' not in made, 'ten epochs are five rounds of two'
  # The rate of ten epochs, whole in each round of two.
  rate = made['optimiser']['learning_rate']
  assert (rate['schedule'], rate['epochs_per_round']) == ('rewound', 2)
  np.testing.assert_allclose(rate['inner']['epochs'], (0.8, 2.0), rtol=1e-12)
  rule = made['regulariser']['rewind']
  assert rule['sparsity'] == {'schedule': 'iterative_sparsity', 'final': 0.75, 'rounds': 4,
                              'begin_epoch': 2, 'epochs_per_round': 2}
  assert (rule['allocation'], rule['granularity'], rule['begin']) == ('global', 'weight', 0)
  for path in DENSITIES:
    assert path in rule['leaves'].split('|')


@pytest.mark.parametrize('rounds, epochs, each', [(1, 10, 5), (2, 9, 3), (3, 8, 2), (20, 21, 1)])
def test_rounds_that_do_not_divide_the_epochs_leave_some_out(rounds, epochs, each):
  made = derived('rewind', settings=Settings(rounds=rounds))
  assert made['epochs'] == epochs == each * (rounds + 1)
  assert made['regulariser']['rewind']['sparsity']['epochs_per_round'] == each


def test_a_layer_of_which_nothing_is_left_keeps_one_random_weight():
  found = FOUND._replace(densities={**DENSITIES, 'dense1/kernel': 0.0})
  made = derived('random', found=found)
  assert made['regulariser']['random']['density'] == {**DENSITIES, 'dense1/kernel': ONE_WEIGHT}
  rules = build.regulariser(ml_collections.ConfigDict(made).regulariser, 100)
  weights = {name: {'kernel': jnp.ones((8, 8))} for name in ('dense0', 'dense1', 'head')}
  drawn = rules.weights(*rules.init(jax.random.key(0), weights))
  assert np.count_nonzero(drawn['dense1']['kernel']) == 1


def test_a_model_without_widths_has_no_smaller_one():
  config = config_of()
  config.model = ml_collections.ConfigDict({'name': 'deep_lstm', 'symbols': 65})
  assert why_not('dense_small', config, SINGLE) == (
      "shrinks the model's field widths, which deep_lstm does not have")
  assert [name for name in ALL if why_not(name, config, FOUND)] == ['dense_small']


def test_an_unknown_control_is_named():
  with pytest.raises(ValueError, match=f"no control 'sratch'; controls are {', '.join(ALL)}"):
    derived('sratch')
  assert set(ALL) - set(TRAINED) == {'int8_zstd'}


# --- equal bytes ----------------------------------------------------------------------------------


def equal_bytes_widths(config, budget, shape):
  fields = equal_bytes_fields(config, budget, shape)
  assert fields.keys() == {'widths'}
  return fields['widths']


def bytes_of(widths):
  sizes = [64, *widths, 10]
  return codec.float32_bytes({'params': {
      name: {'kernel': np.zeros(shape, np.float32), 'bias': np.zeros(shape[1], np.float32)}
      for name, shape in zip(('dense0', 'dense1', 'head'), zip(sizes[:-1], sizes[1:], strict=True),
                             strict=True)}})


@pytest.mark.parametrize('budget', [2000, 20_000, 200_000])
def test_the_largest_network_within_the_bytes(budget):
  config = config_of()
  found = equal_bytes_widths(config, budget, SHAPE)
  assert derived('dense_small', found=FOUND._replace(bytes_file=budget))['model']['widths'] == found
  assert bytes_of(found) <= budget
  # The next wider pair in these proportions: the first factor at which a width rounds up.
  steps = sorted({(k + 0.5) / width for width in (300, 100) for k in range(1, width + 1)})
  wider = [tuple(max(1, round(width * (step + 1e-9))) for width in (300, 100)) for step in steps]
  following = next(widths for widths in wider if sum(widths) > sum(found))
  assert bytes_of(following) > budget
  assert abs(found[0] - 3 * found[1]) <= 3, 'in the proportions of 300 to 100'


def test_the_ends_of_the_bytes():
  config = config_of()
  assert equal_bytes_widths(config, 10**9, SHAPE) == (300, 100)
  assert equal_bytes_widths(config, 10, SHAPE) == (1, 1)
  assert equal_bytes_widths(config, bytes_of((300, 100)), SHAPE) == (300, 100)
  assert equal_bytes_widths(config, bytes_of((300, 100)) - 1, SHAPE) != (300, 100)


# --- the facts ------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def sparse():
  """Deployed variables of 64-6-5-10: inputs 0 to 9 unread, hidden units 1 and 2 gone."""
  rng = np.random.default_rng(0)
  weights = {name: {'kernel': rng.normal(size=shape).astype(np.float32),
                    'bias': np.zeros(shape[1], np.float32)}
             for name, shape in (('dense0', (64, 6)), ('dense1', (6, 5)), ('head', (5, 10)))}
  weights['dense0']['kernel'][:10] = 0
  weights['dense0']['kernel'][:, [1, 2]] = 0
  weights['dense1']['kernel'][[1, 2]] = 0
  weights['head']['kernel'][0, 0] = 0
  return {'params': weights}


def test_facts_by_counting(sparse):
  config = config_of(**{'model.widths': (6, 5)})
  found = facts(config, sparse, 777, SHAPE)
  assert found.densities == {'dense0/kernel': 54 * 4 / (64 * 6), 'dense1/kernel': 20 / 30,
                             'head/kernel': 49 / 50}
  assert found.density == pytest.approx((54 * 4 + 20 + 49) / (64 * 6 + 30 + 50), rel=1e-12)
  assert found.weights_kept == 54 * 4 + 20 + 49
  assert found.flops_ratio == (64 * 6 + 30 + 50) / (54 * 4 + 20 + 50)
  assert (found.bytes_file, found.compacted) == (777, True)
  assert found.compact_fields == {'widths': (4, 5), 'classes': 10,
                                  'kept_inputs': tuple(range(10, 64))}
  # The control of the compact architecture is that very network.
  made = control_config('scratch', config, found, Settings(), Examples(SHAPE))
  model = build.model(made.model)
  assert isinstance(model, MLP) and (model.widths, model.kept_inputs) == (
      (4, 5), tuple(range(10, 64)))
  assert made.epochs == round(10 * found.flops_ratio)


def test_single_zeros_compact_nothing(sparse):
  config = config_of(**{'model.widths': (6, 5)})
  rng = np.random.default_rng(1)
  scattered = jax.tree.map(lambda leaf: leaf, sparse)
  for name, layer in scattered['params'].items():
    layer['kernel'] = rng.normal(size=layer['kernel'].shape).astype(np.float32)
    layer['kernel'][0, 0] = 0
  found = facts(config, scattered, 777, SHAPE)
  assert not found.compacted and found.flops_ratio == 1.0
  assert found.weights_kept == 64 * 6 + 30 + 50 - 3
  with pytest.raises(ValueError, match='not compacted'):
    control_config('scratch', config, found, Settings(), Examples(SHAPE))
