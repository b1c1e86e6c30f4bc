"""What the first layer reads, as images: its filters, and the pixels that are left of the input."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
from matplotlib import cm, colors, patches
from matplotlib.figure import Figure

from experiments.report import figures
from experiments.report.figures import Plot
from experiments.report.folder import Run, kernel_path
from experiments.report.histograms import deployed_gates, is_gated
from experiments.structure import is_recurrent

IMAGE_SHAPES = {'digits': (8, 8, 1), 'mnist': (28, 28, 1), 'fashion_mnist': (28, 28, 1)}
# Models whose second layer alone reads the units of the first.
SEQUENTIAL = ('mlp', 'lenet_5_caffe', 'convnet')
TILES = 60
LINE = 4          # pixels between tiles of about 28
WEIGHTS = ('first_layer_weights', 'Weights of the first layer')
INPUTS = ('inputs_kept', 'Kept inputs')


def first_layer(run: Run) -> list[Plot]:
  """Returns the plots of the first layer; each says why, if it is no image."""
  row = run.ledger['layers'][0]
  path = kernel_path(run, row)
  if is_recurrent(run.config):
    reason = f'Not drawn: {path} reads one step of a sequence, not an image.'
    return [Plot(*WEIGHTS, reason, None), Plot(*INPUTS, reason, None)]
  kernel = np.asarray(run.deployed[path], np.float64)
  if row['kind'] == 'Conv' and kernel.ndim == 4:
    no_map = Plot(*INPUTS, f'Not drawn: {path} slides over the image and reads every pixel.', None)
    return [_filters(run, path, kernel), no_map]
  shape = image_shape(run.ledger['dataset'], kernel.shape)
  if row['kind'] != 'Dense' or shape is None:
    reason = (f'Not drawn: {path} {kernel.shape} ({row["kind"]}) does not read the pixels of a '
              f'{run.ledger["dataset"]} image.')
    return [Plot(*WEIGHTS, reason, None), Plot(*INPUTS, reason, None)]
  tiles = kernel.T.reshape(-1, *shape)
  return [_tiles(run, path, kernel, tiles, 'hidden units', f'reshaped to {_size(shape)}'),
          _inputs(run, path, kernel, shape)]


def image_shape(dataset: str, kernel_shape: tuple[int, ...]) -> tuple[int, int, int] | None:
  """Returns (height, width, channels) of the inputs of a dense kernel (inputs, outputs).

  Of a data set not in `IMAGE_SHAPES`, a square number of inputs, or three times one, is an image.
  None if it is not.
  """
  if len(kernel_shape) != 2:
    return None
  if dataset in IMAGE_SHAPES:
    shape = IMAGE_SHAPES[dataset]
    return shape if math.prod(shape) == kernel_shape[0] else None
  for channels in (1, 3):
    pixels, rest = divmod(kernel_shape[0], channels)
    side = math.isqrt(pixels)
    if rest == 0 and side > 1 and side * side == pixels:
      return side, side, channels
  return None


def used_units(run: Run, kernel: np.ndarray) -> tuple[np.ndarray, bool]:
  """Returns (mask of the units of the first kernel that count as kept, whether readers were seen).

  A unit is kept if its incoming weights are not all zero and, in a model known to be sequential,
  the next layer reads it.
  """
  kept = np.any(kernel != 0, axis=tuple(range(kernel.ndim - 1)))
  layers = run.ledger['layers']
  if run.config.get('model', {}).get('name') not in SEQUENTIAL or len(layers) < 2:
    return kept, False
  reader = run.deployed[kernel_path(run, layers[1])]
  if reader.shape[-2] != kept.size:
    return kept, False
  others = tuple(i for i in range(reader.ndim) if i != reader.ndim - 2)
  return kept & np.any(reader != 0, axis=others), True


def mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
  """Joins tiles (n, height, width) into one image, with lines and missing tiles of NaN.

  Small tiles are enlarged, so that the lines, `LINE` wide, stay thin beside them.
  """
  scale = max(1, round(28 / max(tiles.shape[1:])))
  tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
  count, height, width = tiles.shape
  rows = math.ceil(count / columns)
  image = np.full((rows * (height + LINE) + LINE, columns * (width + LINE) + LINE), np.nan)
  for i, tile in enumerate(tiles):
    row, column = divmod(i, columns)
    top, left = row * (height + LINE) + LINE, column * (width + LINE) + LINE
    image[top:top + height, left:left + width] = tile
  return image


def _filters(run: Run, path: str, kernel: np.ndarray) -> Plot:
  channels = kernel.shape[2]
  if channels not in (1, 3):
    return Plot(*WEIGHTS, f'Not drawn: {path} {kernel.shape} has {channels} input channels, which '
                'are no image.', None)
  tiles = np.moveaxis(kernel, -1, 0)
  return _tiles(run, path, kernel, tiles, 'filters', _size(kernel.shape[:3]))


def _tiles(run: Run, path: str, kernel: np.ndarray, tiles: np.ndarray, units: str,
           what: str) -> Plot:
  """Draws the kept tiles, (n, height, width, 1 or 3), with the largest norm first."""
  kept, read = used_units(run, kernel)
  if not kept.any():
    return Plot(*WEIGHTS, f'Not drawn: none of the {kept.size} {units} of {path} is kept.', None)
  norms = np.sqrt(np.sum(np.square(tiles), axis=(1, 2, 3)))
  order = [i for i in np.argsort(-norms, kind='stable') if kept[i]]
  shown = tiles[order[:TILES]]
  # One strip for each channel: colours of weights have signs, which no RGB image can show.
  strips = [_strip(shown[..., channel]) for channel in range(shown.shape[3])]
  # The clip at the 99th percentile keeps a few large weights from bleaching all others.
  limit = float(np.percentile(np.abs(shown[shown != 0]), 99))
  limit = max(limit, float(np.finfo(np.float32).tiny))
  width = 8.0
  # The strips take 0.88 of the width, the colour bar the rest; titles and the legend add to them.
  height = sum(0.88 * width * strip.shape[0] / strip.shape[1] for strip in strips)
  height += 0.15 + (0.3 * len(strips) if len(strips) > 1 else 0) + 0.25 * bool(np.any(shown == 0))
  figure = figures.new_figure(width, min(height, 14))
  all_axes = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
  names = ('',) if len(strips) == 1 else ('red', 'green', 'blue')
  for axes, strip, name in zip(all_axes, strips, names, strict=True):
    axes.imshow(figures.painted(strip, 'RdBu_r', -limit, limit), interpolation='nearest')
    axes.set_axis_off()
    axes.set_title(name, fontsize=9, loc='left')
  _colourbar(figure, list(all_axes), 'RdBu_r', -limit, limit, 'weight', 'both')
  _zero_legend(figure, shown)
  of = f'{len(shown)} of the {len(order)}' if len(shown) < len(order) else f'the {len(order)}'
  reading = (f'Incoming weights of {of} kept {units} (of {kept.size}) of {path}, {what}, largest '
             'norm first; red positive, blue negative, grey exactly zero.')
  if read:
    reading += ' A unit is kept if the next layer reads it and its own weights are not all zero.'
  return Plot(*WEIGHTS, reading, figure)


def _strip(tiles: np.ndarray) -> np.ndarray:
  return mosaic(tiles, min(len(tiles), 12 if len(tiles) > 20 else 10))


def _inputs(run: Run, path: str, kernel: np.ndarray, shape: tuple[int, int, int]) -> Plot:
  norms = np.sqrt(np.sum(np.square(kernel), axis=1)).reshape(shape)
  # A pixel has one value: the norm over its channels, and the mean of their gates.
  maps = [('L2 norm of the weights that leave the pixel', np.sqrt(np.sum(norms**2, axis=2)))]
  gates = _input_gates(run, path)
  if gates is not None:
    maps.insert(0, ('deployed gate', gates.reshape(shape).mean(axis=2)))
  figure = figures.new_figure(4.3 * len(maps), 3.6)
  for axes, (title, values) in zip(figures.panels(figure, len(maps)), maps, strict=True):
    high = 1.0 if title == 'deployed gate' else max(values.max(), np.finfo(np.float32).tiny)
    axes.imshow(figures.painted(values, 'viridis', 0, high), interpolation='nearest')
    axes.set_title(title, fontsize=10, loc='left')
    axes.set_xticks([])
    axes.set_yticks([])
    _colourbar(figure, [axes], 'viridis', 0, high, '', 'neither')
  _zero_legend(figure, norms)
  kept = int(np.count_nonzero(norms))
  return Plot(*INPUTS, f'{kept} of {norms.size} inputs are read by {path}, drawn as the '
              f'{_size(shape)} image; grey pixels are cut off (exactly zero). Pixels that are '
              'constant in the data should go first.', figure)


def _input_gates(run: Run, path: str) -> np.ndarray | None:
  """The gates on the rows of the first kernel, if a rule has them."""
  for rule, params in run.params.items():
    if is_gated(params):
      gates = deployed_gates(run, rule).get(path)
      if gates is not None and gates.shape == (run.deployed[path].shape[0], 1):
        return gates.reshape(-1)
  return None


def _colourbar(figure: Figure, axes: list, colours: str, low: float, high: float, label: str,
               extend: str) -> None:
  scale = cm.ScalarMappable(colors.Normalize(low, high), matplotlib.colormaps[colours])
  bar = figure.colorbar(scale, ax=axes, label=label, extend=extend, extendfrac=0.02,
                        shrink=0.9, pad=0.02)
  bar.ax.tick_params(labelsize=8)
  bar.outline.set_visible(False)


def _zero_legend(figure: Figure, values: np.ndarray) -> None:
  if np.any(values == 0):
    figure.legend([patches.Patch(color=figures.ZERO)], ['exactly zero'], frameon=False, fontsize=8,
                  loc='outside lower left')


def _size(shape: tuple[int, ...]) -> str:
  return ' x '.join(map(str, shape[:2] if shape[2] == 1 else shape))
