"""What a config builds, and what it says when it cannot."""
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

import sparsejax
from experiments import build
from experiments.configs.digits import l0_mlp
from sparsejax.models.convnet import ConvNet
from sparsejax.models.lenet import MLP
from sparsejax.training import fit

IMAGES = np.arange(120 * 16, dtype=np.uint8).reshape(120, 4, 4, 1)


def config(**changes):
  """The demonstration's config with fields replaced, 'a.b' for nested ones."""
  made = l0_mlp.get_config('smoke')
  with made.unlocked():
    for name, value in changes.items():
      made.update_from_flattened_dict({name.replace('__', '.'): value})
  return made


def rule(**fields):
  return ml_collections.ConfigDict({'rule': {'leaves': '.*kernel', **fields}})


def refusal(made):
  with pytest.raises(ValueError) as caught:
    build.recipe(made, IMAGES)
  return str(caught.value)


# --- what is built --------------------------------------------------------------------------------


def test_the_recipe_holds_what_the_config_says():
  recipe = build.recipe(config(preprocess={'scale': 0.5, 'subtract_mean': True}), IMAGES)
  assert recipe.model.widths == (300, 100) and isinstance(recipe.model, MLP)
  assert (recipe.num_terms, recipe.batch_size, recipe.ema_decay) == (120, 50, 0.99)
  assert recipe.train_kwargs == {} and recipe.eval_kwargs == {}
  wanted = (IMAGES[:2].astype(np.float64) - IMAGES.astype(np.float64).mean(0)) * 0.5
  np.testing.assert_allclose(recipe.preprocess(jnp.asarray(IMAGES[:2])), wanted, atol=1e-4)


def test_a_language_model_reads_tokens_and_counts_them():
  made = config(preprocess={'tokens': True})
  assert build.recipe(made, IMAGES[..., 0, 0]).num_terms == 120    # a label for each text
  made.task = 'language_model'
  recipe = build.recipe(made, IMAGES[..., 0, 0])
  assert recipe.num_terms == 120 * 4                               # a label for each token
  assert recipe.loss is fit.token_cross_entropy and recipe.preprocess is fit.as_tokens


@pytest.mark.parametrize('changes, message', [
    ({'preprocess': {'tokens': False}}, 'config.preprocess.tokens=False must be True'),
    ({'preprocess': {'tokens': True, 'scale': 1.0}}, 'config.preprocess needs the fields tokens'),
    ({'task': 'language_modl'}, "config.task='language_modl' is unknown; did you mean "
                                "'language_model'"),
])
def test_a_task_that_makes_no_sense_is_refused(changes, message):
  made = config()
  with made.unlocked():
    for name, value in changes.items():
      made[name] = ml_collections.ConfigDict(value) if isinstance(value, dict) else value
  assert message in refusal(made)


def test_a_model_with_a_train_flag_is_given_it():
  made = config()
  made.model = ml_collections.ConfigDict({'name': 'convnet', 'widths': (4,), 'pool_after': (0,)})
  recipe = build.recipe(made, IMAGES)
  assert isinstance(recipe.model, ConvNet)
  assert recipe.train_kwargs == {'train': True} and recipe.eval_kwargs == {'train': False}


@pytest.mark.parametrize('kernel_init, variance', [
    ('he_normal', 2 / 400), ('lecun_normal', 1 / 400), ('glorot_uniform', 2 / 600),
    ({'name': 'normal', 'stddev': 0.3}, 0.09)])
def test_initialisers_have_their_variance(kernel_init, variance):
  draw = build.initialiser(kernel_init)(jax.random.key(0), (400, 200))
  # The variance of 80,000 draws is off by sqrt(2 / 80,000) = 0.5 % (one standard deviation).
  np.testing.assert_allclose(np.var(np.asarray(draw)), variance, rtol=0.025)


def test_penalty_weight_may_be_a_number_or_a_schedule():
  assert build.penalty_weight(1.0, 10)(3) == 1.0
  assert build.penalty_weight(0.25, 10)(3) == 0.25
  ramp = ml_collections.ConfigDict({'schedule': 'piecewise_linear', 'epochs': (1, 3),
                                    'values': (0.0, 1.0)})
  np.testing.assert_allclose([build.penalty_weight(ramp, 10)(k) for k in (0, 10, 15, 20, 30, 99)],
                             [0, 0, 0.25, 0.5, 1, 1], atol=1e-6)


def test_an_optimiser_takes_a_schedule():
  made = ml_collections.ConfigDict({'name': 'sgd', 'learning_rate': {
      'schedule': 'piecewise_linear', 'epochs': (0, 1), 'values': (1.0, 0.0)}})
  optimiser = build.optimiser(made, 2)
  state = optimiser.init(jnp.zeros(()))
  for wanted in (-1.0, -0.5, 0.0):
    update, state = optimiser.update(jnp.ones(()), state)
    assert float(update) == wanted


def test_a_static_mask_takes_the_density_of_each_leaf():
  made = ml_collections.ConfigDict()
  made.random = {'leaves': '.*kernel', 'method': 'static_mask',
                 'density': {'dense0/kernel': 0.01, 'head/kernel': 0.5}}
  method = build.regulariser(made, 10)
  weights = {'dense0': {'kernel': jnp.ones((20, 10))}, 'head': {'kernel': jnp.ones((10, 2))}}
  deployed = method.weights(*method.init(jax.random.key(0), weights))
  assert deployed['dense0']['kernel'].sum() == 2 and deployed['head']['kernel'].sum() == 10


WEIGHTS = {'cell': {'kernel': np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 4, 3)}}


def test_chain_applies_inner_to_the_parameters_of_outer():
  made = build.regulariser(rule(
      method='chain',
      outer={'method': 'l0_hard_concrete', 'strength': 0.2, 'clamp': None},
      inner={'method': 'weight_decay', 'strength': {
          'schedule': 'piecewise_linear', 'epochs': (0, 2), 'values': (1.0, 3.0)}}), 5)
  wanted = sparsejax.partition(rule=('.*kernel', sparsejax.chain(
      sparsejax.l0_hard_concrete(0.2, clamp=None),
      sparsejax.weight_decay(optax.linear_schedule(1.0, 3.0, 10)))))
  assert_same_method(made, wanted)


def test_stacked_runs_a_method_per_layer():
  made = build.regulariser(rule(method='stacked', axes=1, layer={
      'method': 'group_lasso', 'strength': 0.3, 'axis': -1, 'threshold': 0.1}), 5)
  wanted = sparsejax.partition(rule=('.*kernel', sparsejax.stacked(
      sparsejax.group_lasso(0.3, axis=-1, threshold=0.1))))
  assert_same_method(made, wanted)


def test_blockwise_shows_a_method_the_blocks():
  made = build.regulariser(rule(method='blockwise', block_size=(2, 3), regulariser={
      'method': 'group_lasso', 'strength': 0.3}), 5)
  wanted = sparsejax.partition(rule=('.*kernel', sparsejax.blockwise(
      sparsejax.group_lasso(0.3), (2, 3))))
  assert_same_method(made, wanted)


def test_methods_nest():
  made = build.regulariser(rule(method='stacked', layer={
      'method': 'chain', 'outer': {'method': 'l1', 'strength': 0.1},
      'inner': {'method': 'weight_decay', 'strength': 0.2}}), 5)
  params, state = made.init(jax.random.key(0), WEIGHTS)
  w = WEIGHTS['cell']['kernel'].astype(np.float64)
  np.testing.assert_allclose(made.penalty(params, state),
                             0.1 * np.abs(w).sum() + 0.5 * 0.2 * (w**2).sum(), rtol=1e-6)


def assert_same_method(made, wanted):
  """The same parameters, weights, penalty and numbers after a step."""
  results = []
  for method in (made, wanted):
    params, state = method.init(jax.random.key(0), WEIGHTS)
    key = jax.random.key(1)
    results.append((params, method.weights(params, state, key), method.weights(params, state),
                    method.penalty(params, state, key),
                    method.update(params, state, step=0, key=key)))
  assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
  for a, b in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize('changes, message', [
    ({'model__name': 'mpl'}, r"config.model.name='mpl' is unknown; did you mean 'mlp'\?"),
    ({'model__kernel_init': 'he_norm'}, "did you mean 'he_normal'"),
    ({'model__kernel_init': 3}, 'config.model.kernel_init=3 must be a name'),
    ({'optimiser__name': 'adm'}, "did you mean 'adam'"),
    ({'regulariser__gates__method': 'l0_hardconcrete'}, "did you mean 'l0_hard_concrete'"),
    ({'regulariser__gates__strength': -1.0}, 'strength=-1.0 must be finite and not negative'),
    ({'regulariser__gates__strength': float('nan')}, 'strength=nan must be finite'),
    ({'regulariser__gates__drop_rate': 1.0}, 'drop_rate=1.0 must lie between'),
    ({'regulariser__gates__leaves': '(.*kernel'}, 'leaves=.* is no regular expression'),
    ({'batch_size': 121}, 'config.batch_size=121 exceeds the 120 training examples'),
    ({'batch_size': 0}, 'config.batch_size=0 must be at least 1'),
    ({'evaluate_every': 0}, 'config.evaluate_every=0 must be at least 1'),
    ({'checkpoint_every': 0}, 'config.checkpoint_every=0 must be at least 1'),
    ({'epochs': 0}, 'config.epochs=0 must be at least 1'),
    ({'seed': -1}, 'config.seed=-1 must not be negative'),
    ({'ema_decay': 1.0}, 'config.ema_decay=1.0 must lie in'),
    ({'penalty_weight': -0.5}, 'config.penalty_weight=-0.5 must be'),
])
def test_a_value_that_makes_no_sense_is_refused(changes, message):
  made = config()
  for name, value in changes.items():
    *parents, field = name.split('__')
    node = made
    for parent in parents:
      node = node[parent]
    with node.ignore_type():
      node[field] = value
  with pytest.raises(ValueError, match=message):
    build.recipe(made, IMAGES)


@pytest.mark.parametrize('where, field, hint', [
    ('', 'epoch', "did you mean 'epochs'"),
    ('model', 'width', "did you mean 'widths'"),
    ('optimiser', 'learning_rat', "did you mean 'learning_rate'"),
    ('regulariser.gates', 'strengh', "did you mean 'strength'"),
    ('preprocess', 'scal', 'needs the fields scale, subtract_mean'),
])
def test_a_field_that_nobody_reads_is_refused(where, field, hint):
  made = config()
  node = made
  for name in filter(None, where.split('.')):
    node = node[name]
  with node.unlocked():
    node[field] = 1
  message = refusal(made)
  assert hint in message and f'config.{where}'.rstrip('.') in message


@pytest.mark.parametrize('where, field', [
    ('', 'batch_size'), ('', 'regulariser'), ('model', 'name'), ('optimiser', 'name'),
    ('optimiser', 'learning_rate'), ('regulariser.gates', 'method'),
    ('regulariser.gates', 'leaves'), ('regulariser.gates', 'strength'), ('preprocess', 'scale')])
def test_a_missing_field_is_named(where, field):
  made = config()
  node = made
  for name in filter(None, where.split('.')):
    node = node[name]
  with node.unlocked():
    del node[field]
  message = refusal(made)
  assert field in message and f'config.{where}'.rstrip('.') in message


@pytest.mark.parametrize('schedule, message', [
    ({'schedule': 'piecewise_liner', 'epochs': (0, 1), 'values': (0, 1)},
     "strength.schedule='piecewise_liner' is unknown; did you mean 'piecewise_linear'"),
    ({'schedule': 'piecewise_linear', 'epochs': (0, 1), 'value': (0, 1)},
     'needs the fields epochs, values'),
    ({'schedule': 'piecewise_linear', 'epochs': (1, 0), 'values': (0, 1)}, 'must increase'),
    ({'schedule': 'piecewise_linear', 'epochs': (0, 1), 'values': (0, 1, 2)}, 'one to one'),
    ({'schedule': 'cubic_sparsity', 'final': 0.5, 'begin_epoch': 2, 'end_epoch': 1},
     'must come before'),
    ({'schedule': 'cubic_sparsity', 'final': 0.5}, 'needs the fields final, begin_epoch'),
    ({'schedule': 'iterative_sparsity', 'final': 0.5, 'rounds': 2, 'begin_epoch': 0,
      'epochs_per_round': 1}, 'strength.begin_epoch=0 is no whole step'),
    ({'schedule': 'rewound', 'inner': 0.1}, 'needs the fields epochs_per_round, inner'),
    ({'schedule': 'rewound', 'epochs_per_round': 1, 'inner': {'schedule': 'cubic'}},
     "strength.inner.schedule='cubic' is unknown"),
])
def test_a_schedule_that_does_not_hold_together_is_refused(schedule, message):
  with pytest.raises(ValueError, match=message):
    build.regulariser(rule(method='l1', strength=schedule), 10)


@pytest.mark.parametrize('fields, message', [
    ({'method': 'chain', 'outer': {'method': 'l1', 'strength': 0.1}}, "needs the field 'inner'"),
    ({'method': 'chain', 'outer': 'l1', 'inner': 'l1'}, r"rule.inner='l1' must hold a method"),
    ({'method': 'stacked', 'layer': {'method': 'l3'}}, r"rule.layer.method='l3' is unknown"),
    ({'method': 'stacked', 'layer': {'strength': 1.0}}, r"rule.layer needs the field 'method'"),
    ({'method': 'stacked', 'layer': {'method': 'l1', 'strength': 1.0}, 'axes': 0}, 'axes >= 1'),
])
def test_a_method_inside_another_is_checked_alike(fields, message):
  with pytest.raises(ValueError, match=message):
    build.regulariser(rule(**fields), 10)


def test_a_rule_that_is_no_dict_is_refused():
  with pytest.raises(ValueError, match='config.regulariser.gates needs leaves'):
    build.regulariser(ml_collections.ConfigDict({'gates': 'l1'}), 10)


def test_a_rule_named_free_is_refused():
  made = ml_collections.ConfigDict({'free': {'leaves': '.*', 'method': 'l1', 'strength': 1.0}})
  with pytest.raises(ValueError, match="'free' is reserved"):
    build.regulariser(made, 10)
