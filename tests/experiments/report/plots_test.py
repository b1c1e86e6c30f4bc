"""What the figures show, read back from matplotlib's own objects."""
import numpy as np
import pytest

from experiments.report import figures, histograms, images, plots
from experiments.report.folder import read_run


def _lines(axes):
  return {line.get_label(): line for line in axes.lines}


def _bars(axes):
  """{label: (left edges, heights)} of the bars of a histogram."""
  return {bars.get_label(): (np.array([bar.get_x() for bar in bars]),
                             np.array([bar.get_height() for bar in bars]))
          for bars in axes.containers}


def test_learning_curves(vd_source):
  run = read_run(vd_source)
  loss, error, penalty = plots.learning_curves(run).figure.axes
  train = _lines(loss)['training, mean of the epoch']
  np.testing.assert_array_equal(train.get_xdata(), np.arange(1, 41))
  np.testing.assert_array_equal(train.get_ydata(), [row['train_nll_nats'] for row in run.metrics])
  held = _lines(error)['validation, deployed']
  np.testing.assert_array_equal(held.get_xdata(), np.arange(4, 41, 4))
  test = _lines(error)['test, once at the end: 1.97']
  assert (test.get_xdata(), test.get_ydata()) == ([40], [1.97])
  assert loss.get_ylabel() == 'NLL (nats per example)' and loss.get_yscale() == 'log'
  assert error.get_ylabel() == 'error (%)' and penalty.get_ylabel().startswith('penalty (nats')


def test_learning_curves_on_training_images(l0_source):
  run = read_run(l0_source)
  rows = [{key.replace('validation_error', 'train_error'): value for key, value in row.items()
           if key not in ('validation_nll_nats', 'penalty_nats')} for row in run.metrics]
  plot = plots.learning_curves(run._replace(metrics=rows))
  loss, error = plot.figure.axes
  assert set(_lines(loss)) == {'training, mean of the epoch', 'test, once at the end: 0.0713'}
  assert 'training images, deployed' in _lines(error)
  assert 'training images' in plot.reading


def test_errors_of_zero_keep_a_linear_axis(l0_source):
  run = read_run(l0_source)
  rows = [row | ({'validation_error_percent': 0.0} if row['epoch'] > 20 else {})
          for row in run.metrics]
  error = plots.learning_curves(run._replace(metrics=rows)).figure.axes[1]
  assert error.get_yscale() == 'linear' and error.get_ylim()[0] == 0


def test_density_is_logarithmic_and_skips_zeros(vd_source):
  run = read_run(vd_source)
  rows = [row | ({'density/head/kernel': 0.0} if row['epoch'] == 40 else {}) for row in run.metrics]
  plot = plots.density_over_time(run._replace(metrics=rows))
  axes, = plot.figure.axes
  assert axes.get_yscale() == 'log' and 'A curve stops where its kernel is empty' in plot.reading
  labels = [line.get_label().split(':')[0] for line in axes.lines]
  assert labels == ['dense0', 'dense1', 'head', 'all kernels']
  head = axes.lines[2].get_ydata()
  assert np.isnan(head[-1]) and np.isfinite(head[:-1]).all()
  none = [{'epoch': 1, 'train_nll_nats': 1.0}]
  assert plots.density_over_time(run._replace(metrics=none)).figure is None


def test_kept_weights_bars(vd_source):
  run = read_run(vd_source)
  axes, = plots.kept_weights(run).figure.axes
  widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
  assert widths['all'] == [235_200, 30_000, 1_000]
  assert widths['kept'] == [row['weights_kept'] for row in run.ledger['layers']]
  texts = [text.get_text() for text in axes.texts]
  kept = widths['kept'][2]
  assert texts[2] == f'{kept} of 1,000 ({kept / 10:.3g} %)'


def test_gates_split_at_the_boundary(l0_source):
  run = read_run(l0_source)
  plot, = histograms.rule_histograms(run)
  assert plot.name == 'gates_gates' and '-2.398' in plot.reading
  for axes, layer in zip(plot.figure.axes, ('dense0', 'dense1', 'head'), strict=True):
    location = run.params['gates']['log_alpha'][layer]['kernel']
    kept = int(np.sum(location > np.log(0.1 / 1.1)))          # sigmoid(a) 1.2 - 0.1 > 0
    assert axes.get_title('left').splitlines() == [
        f'{layer}/kernel', f'{kept} of {location.size} gates kept']
    bars = _bars(axes)
    assert bars['kept'][1].sum() == kept
    assert bars['pruned'][1].sum() == location.size - kept
    assert bars['pruned'][0].max() < -2.3979 <= bars['kept'][0].min() + 1e-9
    np.testing.assert_allclose(axes.lines[0].get_xdata(), -2.3978953, atol=1e-6)


def test_boundary_follows_the_config(l0_source):
  run = read_run(l0_source)
  config = run.config | {'regulariser': {'gates': {'gamma': -0.2, 'zeta': 1.2}}}
  plot, = histograms.rule_histograms(run._replace(config=config))
  np.testing.assert_allclose(plot.figure.axes[0].lines[0].get_xdata(), np.log(0.2 / 1.2))


def test_log_alpha_split_at_the_threshold(vd_source):
  run = read_run(vd_source)
  plot, = histograms.rule_histograms(run)
  assert plot.name == 'log_alpha_weights' and 'above 0.953' in plot.reading   # 1 / (1 + e^-3)
  for axes, row in zip(plot.figure.axes, run.ledger['layers'], strict=True):
    bars = _bars(axes)
    assert bars['kept'][1].sum() == row['weights_kept']
    assert bars['pruned'][1].sum() == row['weights_total'] - row['weights_kept']
    assert axes.get_yscale() == 'log' and axes.lines[0].get_xdata()[0] == 3.0
  state = {'weights': {'strength': np.float32(1)}}
  with pytest.raises(ValueError, match='parameters.safetensors has no state/weights/threshold'):
    histograms.rule_histograms(run._replace(state=state))


def test_no_histogram_without_gates(conv_source):
  plot, = histograms.rule_histograms(read_run(conv_source))
  assert plot.figure is None and plot.reading.startswith('Not drawn: no rule')


def test_used_units_are_those_the_next_layer_reads(l0_source):
  run = read_run(l0_source)
  kernel = run.deployed['dense0/kernel']
  kept, read = images.used_units(run, kernel)
  gates = run.params['gates']['log_alpha']['dense1']['kernel'].reshape(-1)
  assert read
  np.testing.assert_array_equal(kept, gates > np.log(0.1 / 1.1))
  unknown = run._replace(config=run.config | {'model': {'name': 'residual'}})
  kept, read = images.used_units(unknown, kernel)
  assert kept.all() and not read


def test_first_layer_of_an_mlp(l0_source):
  run = read_run(l0_source)
  weights, inputs = images.first_layer(run)
  gates = run.params['gates']['log_alpha']['dense1']['kernel']
  kept = int(np.sum(gates > np.log(0.1 / 1.1)))
  assert f'the {kept} kept hidden units (of 300) of dense0/kernel, reshaped to 8 x 8' in (
      weights.reading)
  # The map shows the gates, min(1, max(0, 1.2 sigmoid(a) - 0.1)), and greys exactly the zeros.
  location = run.params['gates']['log_alpha']['dense0']['kernel'].reshape(8, 8).astype(np.float64)
  gate = np.clip(1.2 / (1 + np.exp(-location)) - 0.1, 0, 1)
  shown = inputs.figure.axes[0].images[0].get_array()
  grey = np.all(np.isclose(shown[..., :3], 0.8), axis=2)
  np.testing.assert_array_equal(grey, gate == 0)
  assert inputs.reading.startswith(f'{np.count_nonzero(gate)} of 64 inputs')
  assert [axes.get_title('left') for axes in inputs.figure.axes[:2]] == [
      'deployed gate', 'L2 norm of the weights that leave the pixel']


def test_first_layer_without_gates_shows_norms(vd_source):
  weights, inputs = images.first_layer(read_run(vd_source))
  assert 'reshaped to 28 x 28' in weights.reading and '60 of the' in weights.reading
  titled = [axes for axes in inputs.figure.axes if axes.get_title('left')]
  assert [axes.get_title('left') for axes in titled] == [
      'L2 norm of the weights that leave the pixel']


def test_filters_of_a_conv(conv_source):
  run = read_run(conv_source)
  weights, inputs = images.first_layer(run)
  assert 'the 32 kept filters (of 32) of conv0/kernel, 3 x 3 x 3' in weights.reading
  assert [axes.get_title('left') for axes in weights.figure.axes[:3]] == ['red', 'green', 'blue']
  assert inputs.figure is None and 'slides over the image' in inputs.reading


def test_no_image_is_said(l0_source):
  run = read_run(l0_source)
  tabular = run._replace(ledger=run.ledger | {'dataset': 'mnist'})       # 64 inputs, not 784
  for plot in images.first_layer(tabular):
    assert plot.figure is None
    assert plot.reading == ('Not drawn: dense0/kernel (64, 300) (Dense) does not read the pixels '
                            'of a mnist image.')


@pytest.mark.parametrize(('dataset', 'inputs', 'shape'), [
    ('mnist', 784, (28, 28, 1)), ('digits', 64, (8, 8, 1)), ('digits', 784, None),
    ('new', 784, (28, 28, 1)), ('new', 3072, (32, 32, 3)), ('new', 13, None), ('new', 1, None),
])
def test_image_shape(dataset, inputs, shape):
  assert images.image_shape(dataset, (inputs, 300)) == shape


def test_mosaic_keeps_order_and_values():
  tiles = np.arange(5 * 28 * 28, dtype=float).reshape(5, 28, 28)
  image = images.mosaic(tiles, 3)
  line = images.LINE
  assert image.shape == (2 * (28 + line) + line, 3 * (28 + line) + line)
  np.testing.assert_array_equal(image[2 * line + 28:-line, 2 * line + 28:2 * line + 56], tiles[4])
  assert np.isnan(image[:line]).all() and np.isnan(image[-28:, -28 - line:]).all()
  np.testing.assert_array_equal(images.mosaic(np.ones((1, 7, 7)), 1)[line:-line, line:-line],
                                np.ones((28, 28)))


def test_painted_marks_zeros_and_gaps():
  rgba = figures.painted(np.array([[0.0, np.nan, 1.0, -1.0]]), 'RdBu_r', -1, 1)
  np.testing.assert_allclose(rgba[0, 0, :3], 0.8)
  np.testing.assert_allclose(rgba[0, 1], 1)
  assert rgba[0, 2, 0] > rgba[0, 2, 2] and rgba[0, 3, 2] > rgba[0, 3, 0]   # red above, blue below
