"""Figures drawn by Agg without pyplot, so that no global state of matplotlib is touched."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# The palette of Okabe and Ito (2008), which the colour-blind can tell apart; black is for totals.
BLUE, ORANGE, GREEN, VERMILLION = '#0072b2', '#e69f00', '#009e73', '#d55e00'
PALETTE = (BLUE, ORANGE, GREEN, '#cc79a7', '#56b4e9', VERMILLION)
GREY = '#b8b8b8'            # what is pruned
ZERO = '#cccccc'            # an exact zero in an image
DOTS_PER_INCH = 130


class Plot(NamedTuple):
  """A figure of the report. Without a figure, `reading` says why there is none.

  Attributes:
    name: of the file, without extension. title: heading. reading: one line on how to read it.
  """

  name: str
  title: str
  reading: str
  figure: Figure | None


def new_figure(width: float, height: float) -> Figure:
  """Returns an empty figure with the Agg canvas; sizes in inches."""
  figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH,
                  layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
  FigureCanvasAgg(figure)
  return figure


def png(figure: Figure) -> bytes:
  """Returns the figure as PNG; the same figure gives the same bytes."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', metadata={'Software': None})
  return buffer.getvalue()


def panels(figure: Figure, count: int, columns: int = 3) -> list[Axes]:
  """Returns `count` axes in rows of `columns`."""
  columns = min(columns, count)
  grid = figure.add_gridspec(math.ceil(count / columns), columns)
  return [figure.add_subplot(grid[divmod(i, columns)]) for i in range(count)]


def tidy(axes: Axes, title: str = '', x: str = '', y: str = '') -> None:
  """Labels the axes, and leaves a light grid and two spines."""
  axes.set_title(title, fontsize=10, loc='left')
  axes.set_xlabel(x, fontsize=9)
  axes.set_ylabel(y, fontsize=9)
  axes.tick_params(labelsize=8)
  axes.grid(color='0.9', linewidth=0.7)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)


def log_ticks(axis: Axis) -> None:
  """Plain numbers at 1, 2, 5 of each decade, or at 1 where there are more than two decades."""
  low, high = axis.get_view_interval()
  wide = high > 100 * low
  axis.set_major_locator(ticker.LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=12))
  if wide:
    axis.set_minor_locator(ticker.NullLocator())
  axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{value:,.6g}'))
  axis.set_minor_formatter(ticker.NullFormatter())


def log_if_wide(axes: Axes, values: np.ndarray, factor: float = 10) -> None:
  """Makes y logarithmic if the values are positive and span more than `factor`."""
  values = values[np.isfinite(values)]
  if values.size and values.min() > 0 and values.max() > factor * values.min():
    axes.set_yscale('log')
    log_ticks(axes.yaxis)
  elif values.size:
    low, high = min(0.0, values.min()), max(0.0, values.max())
    axes.set_ylim(low - 0.05 * (high - low) * (low < 0), high + 0.05 * (high - low) + 1e-9)
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{value:,.6g}'))


def painted(values: np.ndarray, colours: str, low: float, high: float) -> np.ndarray:
  """Returns RGBA for `values`: exact zeros grey, NaN white, the rest by the map of that name."""
  map_ = matplotlib.colormaps[colours]
  rgba = map_(np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1))
  rgba[values == 0] = colors.to_rgba(ZERO)
  rgba[np.isnan(values)] = 1
  return rgba
