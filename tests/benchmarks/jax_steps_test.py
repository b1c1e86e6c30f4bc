import jax
import numpy as np
import pytest

from benchmarks import cases, jax_steps


@pytest.mark.parametrize('network, method', [
    ('lenet_300_100', 'dense'), ('lenet_300_100', 'l0'),
    pytest.param('lenet_300_100', 'vd', marks=pytest.mark.slow),
    # Compiling the convolutions of a scan takes ten seconds and more.
    pytest.param('lenet_5_caffe', 'l0', marks=pytest.mark.slow),
    pytest.param('lenet_5_caffe', 'vd', marks=pytest.mark.slow)])
def test_steps_reduce_the_loss_and_carry_the_state_on(network, method):
  data = cases.synthetic_data(examples=640)
  steps = jax_steps.JaxSteps(network, method, data, batch_size=16, steps=40)
  steps()
  first = np.asarray(steps.losses)
  assert first.shape == (40,) and int(steps.state.step) == 40
  for _ in range(3):
    steps()
  last = np.asarray(steps.losses)
  assert int(steps.state.step) == 160
  # The classes are told apart at sight; gates that are half shut slow the convolutions at first.
  assert last[-5:].mean() < 0.5 * first[:5].mean()


@pytest.mark.slow
def test_every_kernel_is_under_the_method():
  for network in cases.NETWORKS:
    for method, trained in (('l0', 'log_alpha'), ('vd', 'log_sigma2')):
      made = jax_steps.recipe(network, method, 1)
      weights = jax_steps.initial_weights(network)
      params, _ = made.regulariser.init(jax.random.key(0), weights)
      owned = [leaf for rule, part in params.items() if rule != 'free' for leaf in part[trained]]
      assert sorted(owned) == sorted(weights)
      assert all(set(layer) == {'bias'} for layer in params['free'].values())
