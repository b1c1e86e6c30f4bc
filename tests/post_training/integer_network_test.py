"""Integer inference: bit-exact against NumPy's int64, and close to rounding in floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from sparsejax import codec
from sparsejax.models.lenet import MLP
from sparsejax.post_training import calibration
from sparsejax.post_training.integer_network import IntegerMLP

RNG = np.random.default_rng(0)
MODEL = MLP(widths=(12, 9), classes=5)
IMAGES = RNG.uniform(0, 1, (64, 4, 5)).astype(np.float32)
run = jax.jit(lambda network, inputs: network(inputs))
run_codes = jax.jit(lambda network, inputs: network.codes(inputs))
encode = jax.jit(lambda network, inputs: network.encode(inputs))


def trained(seed=0):
  params = jax.device_get(MODEL.init(jax.random.key(seed), IMAGES[:1])['params'])
  rng = np.random.default_rng(seed)
  for layer in params.values():
    layer['kernel'] = layer['kernel'] * rng.uniform(0.2, 3, layer['kernel'].shape[1:])
    layer['kernel'] = layer['kernel'].astype(np.float32)
    layer['bias'] = rng.normal(scale=0.1, size=layer['bias'].shape).astype(np.float32)
  return params


def ranges_of(params, images=IMAGES, model=MODEL):
  seen = calibration.observe(model, {'params': params}, [images[:32], images[32:]])
  return calibration.moving_ranges(seen)


def in_64_bits(network, codes):
  """The same network by its definition: one layer after the other in int64."""
  for layer in network.layers:
    sums = codes.astype(np.int64) @ np.asarray(layer.codes, np.int64) + np.asarray(layer.bias)
    shift = np.asarray(layer.shift, np.int64)
    codes = (sums * np.asarray(layer.multiplier, np.int64) + (np.int64(1) << (shift - 1))) >> shift
    codes = codes + int(layer.zero_point)
    top = 2**(layer.bits - 1)
    codes = np.clip(codes, int(layer.zero_point) if layer.relu else -top, top - 1)
  return codes


def in_floats(network, params, ranges, images):
  """Rounds weights and activations in float64, with the layers' real numbers in between."""
  spans = ['dense0_out', 'dense1_out', 'outputs']
  x = images.reshape(len(images), -1).astype(np.float64)
  scale = float(network.input_scale)
  x = np.clip(np.rint(x / scale), 0, 255) * scale
  steps = []
  for layer, (name, leaves), span in zip(network.layers, params.items(), spans):
    kernel = np.asarray(leaves['kernel'], np.float64)
    step = np.abs(kernel).max(0) / 127
    x = x @ (np.rint(kernel / step) * step) + leaves['bias']
    x = np.maximum(x, 0) if layer.relu else x
    low, high = ranges[span]
    out = (high - low) / (2**layer.bits - 1)
    x = np.clip(np.rint(x / out) + round(-low / out), 0, 2**layer.bits - 1) - round(-low / out)
    steps.append(x)
    x = x * out
  return steps


@pytest.mark.parametrize('axis', [-1, None])
@pytest.mark.parametrize('output_bits', [8, 16])
def test_every_code_is_that_of_64_bit_integers(axis, output_bits):
  params = trained()
  network = IntegerMLP.from_float(MODEL, params, ranges_of(params), axis=axis,
                                  output_bits=output_bits)
  codes = RNG.integers(-128, 128, (200, 20)).astype(np.int8)
  ours = run_codes(network, codes)
  assert ours.dtype == (np.int8 if output_bits == 8 else np.int16)
  np.testing.assert_array_equal(ours, in_64_bits(network, codes))


def test_the_integers_are_the_rounded_floats_within_a_step():
  params = trained()
  ranges = ranges_of(params)
  network = IntegerMLP.from_float(MODEL, params, ranges, output_bits=8)
  images = RNG.uniform(0, 1, (500, 20)).astype(np.float32)
  inputs = encode(network, images)
  hidden = run_codes(network.replace(layers=network.layers[:1]), inputs)
  wanted = in_floats(network, {name: params[name] for name in ('dense0', 'dense1', 'head')}, ranges,
                     images)
  # Property of the paper: one layer, whose input is the same, within a step on 99.9 % of outputs.
  steps = np.abs(np.asarray(hidden, np.int64) - int(network.layers[0].zero_point) - wanted[0])
  assert np.mean(steps <= 1) >= 0.999
  # The layers behind are handed codes that may be a step off themselves.
  ours = np.asarray(run_codes(network, inputs), np.int64)
  steps = np.abs(ours - int(network.layers[-1].zero_point) - wanted[-1])
  assert np.mean(steps <= 1) >= 0.99


def test_logits_are_close_to_the_models():
  params = trained()
  network = IntegerMLP.from_float(MODEL, params, ranges_of(params))
  wanted = MODEL.apply({'params': params}, IMAGES)
  ours = run(network, IMAGES)
  assert ours.dtype == jnp.float32
  # Three roundings of activations and weights to 1/255 of their range: some percent of it.
  assert np.abs(ours - wanted).max() < 0.05 * np.ptp(wanted)


def test_pixels_are_their_own_codes():
  params = trained()
  ranges = {**ranges_of(params), 'inputs': calibration.Range(0.0, 1.0)}
  network = IntegerMLP.from_float(MODEL, params, ranges)
  pixels = RNG.integers(0, 256, (3, 4, 5))
  np.testing.assert_array_equal(encode(network, (pixels / 255).astype(np.float32)),
                                pixels.reshape(3, 20) - 128)


def test_a_file_holds_the_network(tmp_path):
  model = MODEL.clone(kept_inputs=(1, 4, 7))
  params = jax.device_get(model.init(jax.random.key(0), IMAGES[:1])['params'])
  network = IntegerMLP.from_float(model, params, ranges_of(params, model=model))
  codec.write(tmp_path / 'n', network.to_tree())
  back = IntegerMLP.from_tree(codec.read(tmp_path / 'n'))
  assert back.kept_inputs == (1, 4, 7)
  np.testing.assert_array_equal(run(back, IMAGES), run(network, IMAGES))
  tree = network.to_tree()
  tree['layer1']['bias'] = tree['layer1']['bias'][:-1]
  with pytest.raises(ValueError, match='layer1 has codes of shape'):
    IntegerMLP.from_tree(tree)


def test_dead_units_and_dead_layers_make_no_nan():
  params = trained()
  params['dense0']['kernel'][:, 3] = 0
  params['dense1'] = {'kernel': np.zeros((12, 9), np.float32), 'bias': np.zeros(9, np.float32)}
  network = IntegerMLP.from_float(MODEL, params, ranges_of(params))
  bias = params['head']['bias']
  # Half a step of the 16-bit logits, and half a unit of the bias, which is far smaller.
  np.testing.assert_allclose(run(network, IMAGES), np.tile(bias, (64, 1)),
                             atol=0.6 * np.ptp([*bias, 0]) / 65535 + 1e-6)


def test_what_cannot_be_built_is_named():
  params = trained()
  ranges = ranges_of(params)
  with pytest.raises(ValueError, match="range of 'dense1_out' was not calibrated"):
    IntegerMLP.from_float(MODEL, params, {k: v for k, v in ranges.items() if k != 'dense1_out'})
  with pytest.raises(ValueError, match='made from an MLP'):
    IntegerMLP.from_float(MODEL, params, ranges, output_bits=4)
  params['dense0']['bias'][0] = 1e9
  with pytest.raises(ValueError, match='the sums of dense0 reach'):
    IntegerMLP.from_float(MODEL, params, ranges)
  with pytest.raises(ValueError, match='inputs were all 0'):
    IntegerMLP.from_float(MODEL, params, {**ranges, 'inputs': calibration.Range(0.0, 0.0)})


@pytest.mark.slow
def test_digits_are_told_apart_by_integers_as_by_floats():
  images, labels = load_digits(return_X_y=True)
  images = (images / 16).astype(np.float32)
  model = MLP(widths=(64,))
  # Random features and a least-squares head: a network that works, without a training loop.
  params = jax.device_get(model.init(jax.random.key(1), images[:1])['params'])
  hidden = np.maximum(images @ params['dense0']['kernel'], 0)
  features = np.c_[hidden, np.ones(len(hidden))]
  solution, *_ = np.linalg.lstsq(features[:1000], np.eye(10)[labels[:1000]] * 10, rcond=None)
  params['head'] = {'kernel': solution[:-1].astype(np.float32),
                    'bias': solution[-1].astype(np.float32)}
  seen = calibration.observe(model, {'params': params}, [images[:500], images[500:1000]])
  network = IntegerMLP.from_float(model, params, calibration.moving_ranges(seen))
  wrong = {name: np.mean(np.argmax(logits, -1) != labels[1000:]) for name, logits in (
      ('float', model.apply({'params': params}, images[1000:])),
      ('integer', run(network, images[1000:])))}
  assert wrong['float'] < 0.2 and abs(wrong['integer'] - wrong['float']) < 0.02


def test_ranges_by_hand():
  seen = [{'a': np.array([-1.0, 2.0])}, {'a': np.array([-3.0, 1.0])}, {'a': np.array([0.5, 6.0])}]
  moving = calibration.moving_ranges(seen, 0.5)['a']
  np.testing.assert_allclose(moving, [0.5 * (0.5 * -1 + 0.5 * -3) + 0.5 * 0.5, 0.5 * 1.5 + 3])
  values = np.sort([-1, 2, -3, 1, 0.5, 6])
  np.testing.assert_allclose(calibration.percentile_ranges(seen, 20)['a'], values[[1, 4]])
  np.testing.assert_allclose(calibration.percentile_ranges(seen, 0)['a'], [-3, 6])
  assert calibration.percentile_ranges([{'a': np.array([2.0, 3.0])}], 0)['a'] == (0, 3)
  for call in (lambda: calibration.moving_ranges([]), lambda: calibration.percentile_ranges([])):
    with pytest.raises(ValueError, match='no batch to calibrate on'):
      call()
  with pytest.raises(ValueError, match='momentum=1'):
    calibration.moving_ranges(seen, 1)
  with pytest.raises(ValueError, match='percent=50'):
    calibration.percentile_ranges(seen, 50)
