"""The picture of weights in their clusters holds the run's own numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from experiments.report import figures
from experiments.report.folder import Run
from experiments.report.soft_sharing import mixture_plots
from sparsejax.paths import flatten
from sparsejax.training.checkpoint import Checkpoints
from sparsejax.training.fit import TrainState

EPOCHS = 4


def run_in(folder, shared=True):
  rng = np.random.default_rng(0)
  near = rng.choice([0.0, 0.0, 0.0, -0.3, 0.3], (20, 30))
  weights = {'dense0': {'kernel': (near + rng.normal(0, 0.02, near.shape)).astype(np.float32)},
             'head': {'kernel': rng.normal(0, 0.02, (30, 10)).astype(np.float32)}}
  method = sparsejax.partition(
      rule=('.*', sparsejax.soft_weight_sharing(4, 0.9, init_range=0.3, init_std=0.05,
                                                shared=shared)))
  params, state = jax.device_get(method.init(jax.random.key(0), weights))
  deployed = flatten(sparsejax.finalise(method, params, state))
  return Run(folder, {}, {'epochs': EPOCHS}, [], params, state, deployed)


def state_of(params):
  return TrainState(params, {}, {}, {}, None, jnp.zeros((), jnp.int32), jax.random.key(0))


def test_weights_and_where_they_came_from(tmp_path):
  run = run_in(tmp_path)
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  before = jax.tree.map(lambda leaf: 2 * leaf, run.params)
  checkpoints.save(2, state_of(before))
  checkpoints.save(EPOCHS, state_of(run.params))
  checkpoints.close()
  plot, = mixture_plots(run)
  left, right = plot.figure.axes
  assert sum(bar.get_height() for bar in left.patches if bar.get_label() != 'after epoch 2') >= 900
  triangles = next(line for line in left.lines if line.get_label() == 'means in use')
  used = np.unique(np.concatenate([leaf.reshape(-1) for leaf in run.deployed.values()]))
  np.testing.assert_array_equal(triangles.get_xdata(), used)
  mixture = next(line for line in left.lines if line.get_label() == 'mixture')
  x, y = mixture.get_data()
  # weights per bin, integrated over x and divided by the bin's width: all 900 weights
  width = left.patches[0].get_width()
  np.testing.assert_allclose(np.trapezoid(y, x) / width, 900, rtol=0.02)
  points = right.collections[0].get_offsets()
  np.testing.assert_allclose(points[:, 0], 2 * points[:, 1], rtol=1e-6)
  assert right.get_xlabel() == 'weight after epoch 2'
  assert figures.png(plot.figure)[:4] == b'\x89PNG'


def test_without_an_earlier_checkpoint_the_means_are_shown(tmp_path):
  run = run_in(tmp_path, shared=False)
  plots = mixture_plots(run)
  assert [plot.name for plot in plots] == ['mixture_rule_dense0', 'mixture_rule_head']
  assert 'no earlier checkpoint' in plots[0].reading
  points = plots[0].figure.axes[1].collections[0].get_offsets()
  assert set(points[:, 1]) == set(np.unique(run.deployed['dense0/kernel']).astype(float))


def test_other_methods_have_no_such_plot(tmp_path):
  run = run_in(tmp_path)
  assert mixture_plots(run._replace(params={'decay': {'kernel': np.ones((2, 2))}})) == []


def test_chained_with_another_method_the_state_lies_deeper(tmp_path):
  run = run_in(tmp_path)
  chained = run._replace(state={'rule': {'a': {'strength': np.ones(())}, 'b': run.state['rule']}})
  assert [plot.name for plot in mixture_plots(chained)] == ['mixture_rule']


def test_a_damaged_checkpoint_is_named(tmp_path):
  run = run_in(tmp_path)
  folder = tmp_path / 'checkpoints' / '1'
  folder.mkdir(parents=True)
  (folder / 'about.json').write_text('{}')
  with pytest.raises(ValueError, match='checkpoint .*1 is damaged: about.json'):
    mixture_plots(run)
  (folder / 'about.json').write_text('{"leaves": {}}')
  with pytest.raises(ValueError, match='has no params/rule/weight/dense0/kernel'):
    mixture_plots(run)
