"""Every point of every suite builds, and changes fields that its config has."""
import pathlib

import jax
import jax.numpy as jnp
import pytest

from experiments import build
from experiments.evidence import suite as module
from experiments.evidence.configs import load_config
from experiments.evidence.suite import BUDGETS, METHODS, SUITES, Method, Task, points, select
from sparsejax.paths import flatten

PAIRS = [(name, task, method) for name, tasks in SUITES.items() for task in tasks
         for method in METHODS]
IDS = [f'{name}-{task.name}-{method.name}'.replace(' ', '_') for name, task, method in PAIRS]
DRAWN = ('random mask', 'SET', 'RigL')       # masks are drawn on the host, so from numbers
SHAPES = {'mnist': (28, 28, 1), 'fashion_mnist': (28, 28, 1), 'digits': (8, 8, 1)}


def all_leaves(config):
  """{dotted name: value} of a nested config, empty sub-configs left out."""
  return {name.replace('/', '.'): value for name, value in flatten(config.to_dict()).items()}


@pytest.mark.parametrize('name, task, method', PAIRS, ids=IDS)
def test_every_point_builds(name, task, method):
  made = points(task, method)
  first = [point for point in made if point.seed == 0]
  assert len(made) == task.seeds * len(first) and {p.seed for p in made} == set(range(task.seeds))
  steps = 100
  for point in first:
    config = point.built()
    build.require_whole(config)
    build.regulariser(config.regulariser, steps)
    assert callable(build.optimiser(config.optimiser, steps).init)
    assert callable(build.penalty_weight(config.penalty_weight, steps))
    assert config.validation_examples > 0, 'there must be data to choose on'
    assert 'choose' not in config
    leaves = all_leaves(load_config(point.config))
    for field, value in point.overrides.items():
      assert field in leaves, f'{point.config} has no field {field}'
      assert all_leaves(config)[field] == value
      assert type(value) is type(leaves[field]), field
      assert isinstance(value, (bool, int, float, str)), 'point.json gives it back as it is'


# Drawing the masks of large networks takes seconds, by the same rule as of the digits' network.
@pytest.mark.parametrize('name, task, method', [
    pair for pair in PAIRS if pair[0] == 'smoke' or pair[2].name not in DRAWN])
def test_every_method_claims_leaves_of_its_network_and_deploys_by_a_number_it_has(name, task,
                                                                                  method):
  config = points(task, method)[0].built()
  model = build.model(config.model)
  image = jnp.zeros((1, *SHAPES[config.dataset]))
  weights = jax.eval_shape(lambda key: model.init(key, image), jax.random.key(0))['params']
  rules = build.regulariser(config.regulariser, 100)
  if method.name in DRAWN:
    weights = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), weights)
    _, state = rules.init(jax.random.key(0), weights)
  else:
    _, state = jax.eval_shape(lambda w: rules.init(jax.random.key(0), w), weights)
  assert (not config.regulariser) == (method.name == 'dense')
  if method.deployment:
    number = state[method.deployment.rule][method.deployment.number]
    assert number.shape == ()
    values = method.deployment.values
    assert list(values) == sorted(set(values)) and len(values) > 1


def test_names_are_unique():
  names = [method.name for method in METHODS]
  assert len(set(names)) == len(names) and len({m.variant for m in METHODS}) == len(names)
  assert names.count('dense') == 1
  for tasks in SUITES.values():
    assert len({task.name for task in tasks}) == len(tasks)
    # A report's plot is named after its task.
    assert len({task.name.replace(' ', '_') for task in tasks}) == len(tasks)


def test_no_two_points_share_a_folder():
  root = pathlib.Path('out')
  for tasks in SUITES.values():
    made = [point for task in tasks for method in METHODS
            for point in points(task._replace(seeds=min(task.seeds, 2)), method)]
    assert len({point.folder(root) for point in made}) == len(made)


def test_densities_and_sparsities_reach_every_budget():
  for budget in BUDGETS:
    assert any(density <= 1 / budget for density in module.DENSITIES)
  for density, sparsity in zip(module.DENSITIES, module.SPARSITIES, strict=True):
    assert density + sparsity == pytest.approx(1)


def test_the_fields_of_a_grid_go_in_step():
  method = Method('m', 'l0', {'a': (1.0, 2.0), 'b': (3.0, 4.0)})
  assert method.overrides() == [{'a': 1.0, 'b': 3.0}, {'a': 2.0, 'b': 4.0}]
  assert Method('m', 'dense').overrides() == [{}]
  with pytest.raises(ValueError):
    Method('m', 'l0', {'a': (1.0, 2.0), 'b': (3.0,)}).overrides()


def test_points_are_seed_by_seed_with_both_kinds_of_overrides():
  task = Task('t', 'mlp', 2, {'epochs': 3})
  method = Method('m', 'l0', {'regulariser.inputs.strength': (1.0, 2.0)})
  assert [(p.config, p.overrides, p.seed, p.deployment) for p in points(task, method)] == [
      ('frontier/mlp:l0', {'epochs': 3, 'regulariser.inputs.strength': value}, seed, None)
      for seed in (0, 1) for value in (1.0, 2.0)]
  config = points(task, method)[3].built()
  assert (config.epochs, config.seed, config.regulariser.inputs.strength) == (3, 1, 2.0)


def test_select_by_parts_of_names():
  assert len(select('small')) == len(SUITES['small']) * len(METHODS)
  chosen = select('small', 'Fashion', 'magnitud')
  assert {task.name for task, _ in chosen} == {'Fashion-MNIST MLP'}
  assert [method.name for _, method in chosen] == [
      'magnitude', 'L1 and magnitude', 'iterative magnitude, rewound', 'straight-through magnitude']


def test_select_names_what_there_is():
  with pytest.raises(ValueError, match="no suite 'big'; suites are small, smoke"):
    select('big')
  with pytest.raises(ValueError, match=r"no task with 'CIFAR' and method with '' in the suite "
                                       r"'small'; tasks are MNIST MLP, .*; methods are dense, "):
    select('small', 'CIFAR')
  with pytest.raises(ValueError, match="method with 'dropout' in the suite 'smoke'"):
    select('smoke', '', 'dropout')


def test_a_whole_name_selects_that_row_alone():
  tasks = {task.name for task, _ in select('small', 'MNIST MLP')}
  assert tasks == {'MNIST MLP'}
  assert {task.name for task, _ in select('small', 'MLP')} == {
      'MNIST MLP', 'Fashion-MNIST MLP'}
  methods = {method.name for _, method in select('small', '', 'magnitude')}
  assert methods == {'magnitude'}
