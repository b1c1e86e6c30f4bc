"""The ledger as Markdown tables: simulated numbers are marked, ratios say what they divide by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Ledger = Mapping[str, Any]

NOT_MEASURED = 'none held out'
_SIMPLE = ('Dense', 'Conv', 'ConvTranspose')     # kernels end with (inputs, outputs)


def quality(ledger: Ledger) -> str:
  """Errors and calibration."""
  rows = [
      ('validation_error_percent', 'validation error', '{:.2f} %',
       f'selected by: {ledger["selected_by"]}'),
      ('test_error_percent', 'test error', '{:.2f} %', 'deployed network'),
      ('test_nll_nats', 'test NLL', '{:.4f} nats', 'mean per label'),
      ('test_expected_calibration_error_percent', 'test calibration error (ECE)', '{:.2f} %',
       '15 equal-width bins'),
      ('test_brier', 'test Brier score', '{:.4f}', 'mean squared distance to the label, 0 to 2'),
  ]
  if 'test_bits_per_token' in ledger:
    rows.append(('test_bits_per_token', 'test bits per token', '{:.4f} bits',
                 'NLL / ln 2; a token is a character or a word'))
  if 'test_perplexity' in ledger:
    rows.append(('test_perplexity', 'test perplexity', '{:.2f}', 'exp of the NLL of a token'))
  def value(key, form):
    return NOT_MEASURED if ledger[key] is None else _marked(ledger, key, form.format(ledger[key]))
  return table(('measure', 'value', 'meaning'),
               [(name, value(key, form), meaning) for key, name, form, meaning in rows])


def size(ledger: Ledger) -> str:
  """Weights, parameters, bytes and operations, dense and deployed."""
  names = {
      'weights': ('weights_total', 'weights_kept', 'weights (non-zero kernel entries)'),
      'parameters': ('parameters_dense', 'parameters_compact', 'parameters (compact network)'),
      'bytes': ('bytes_float32', 'bytes_file', 'bytes (file of the compact network)'),
  }
  rows = []
  for ratio, (dense, kept, name) in names.items():
    key = f'compression_{ratio}'
    rows.append((name, f'{ledger[dense]:,}', _marked(ledger, kept, f'{ledger[kept]:,}'),
                 _marked(ledger, (key, kept), f'{ledger[key]:.1f}x'),
                 f'{ledger[f"{key}_denominator"]} (dense / ours)'))
  flops = ledger['flops_dense'], ledger['flops_compact']
  rows.append(('flops of one example (compact network)', f'{flops[0]:,}',
               _marked(ledger, 'flops_compact', f'{flops[1]:,}'),
               _marked(ledger, 'flops_compact', f'{flops[0] / flops[1]:.1f}x') if flops[1] else '',
               'linear layers of the dense network, 2 per multiply-add (dense / ours)'))
  rows.append(('exact zeros of the deployed dense network', '',
               _marked(ledger, 'exact_zeros', f'{ledger["exact_zeros"]:,}'), '', ''))
  kept = '-'.join(map(str, ledger['architecture_kept']))
  rows.append(('architecture kept', _architecture(ledger['layers']),
               _marked(ledger, 'architecture_kept', kept), '',
               'outputs of convolutions, inputs of the other layers'))
  rows.append(('largest difference of the compact network', '',
               _marked(ledger, 'compact_relative_difference',
                       f'{ledger["compact_relative_difference"]:.1e}'),
               '', 'largest absolute logit of the dense network'))
  return table(('measure', 'dense', 'ours', 'ratio', 'relative to'), rows, right=(1, 2, 3))


def speed(ledger: Ledger) -> str:
  """Milliseconds of the dense and the compact network, with quartiles."""
  rows = []
  for batch in (1, 128):
    dense, compact = f'ms_dense_batch{batch}', f'ms_compact_batch{batch}'
    ratio = ledger[dense] / ledger[compact] if ledger[compact] else float('nan')
    # Quartiles that overlap mean that the order of the medians may be chance.
    apart = (ledger[f'{dense}_lower_quartile'] > ledger[f'{compact}_upper_quartile']
             or ledger[f'{compact}_lower_quartile'] > ledger[f'{dense}_upper_quartile'])
    rows.append((str(batch), _milliseconds(ledger, dense), _milliseconds(ledger, compact),
                 _marked(ledger, (dense, compact), f'{ratio:.2f}x'),
                 'apart' if apart else 'overlap: no clear difference'))
  return table(('batch', 'dense, ms', 'compact, ms', 'dense / compact median', 'quartiles'), rows,
               right=(0, 1, 2, 3))


def packing(ledger: Ledger) -> str:
  """What became of each weight that was to be packed."""
  rows = [(row['path'], row['kind'] if row['packed'] else 'dense',
           'x'.join(map(str, row['block_size'])), f'{100 * row["density"]:.1f} %', row['reason'])
          for row in ledger['packed_layers']]
  return table(('weight', 'form', 'block', 'density', 'why'), rows, right=(2, 3))


def training_steps(ledger: Ledger) -> str:
  """Milliseconds of a training step on dense, masked and packed weights, with quartiles."""
  rows = []
  for name in ('dense', 'masked', 'packed'):
    key = f'ms_train_step_{name}'
    ratio = ledger['ms_train_step_dense'] / ledger[key]
    rows.append((name, _milliseconds(ledger, key), f'{ratio:.2f}x'))
  return table(('weights', 'step, ms', 'dense / it'), rows, right=(1, 2))


def layers(ledger: Ledger) -> str:
  """What is left of each layer."""
  rows = []
  for row in ledger['layers']:
    inputs, outputs = (row['kernel_shape'][-2:] if row['kind'] in _SIMPLE else (None, None))
    rows.append((row['layer'] or '(model)', row['kind'], ' x '.join(map(str, row['kernel_shape'])),
                 _marked(ledger, 'layers', f'{row["weights_kept"]:,}'), f'{row["weights_total"]:,}',
                 f'{100 * row["weights_kept"] / max(row["weights_total"], 1):.3g} %',
                 _of(row['inputs_kept'], inputs), _of(row['outputs_kept'], outputs),
                 f'{row["biases"]:,}', f'{row["exact_zeros"]:,}', f'{row["flops"]:,}'))
  return table(('layer', 'kind', 'kernel', 'weights kept', 'of', 'kept / all', 'inputs', 'outputs',
                'biases', 'zeros', 'flops, dense'), rows, right=range(3, 11))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
  """A Markdown table; the columns in `right` are aligned to the right."""
  ruler = ['---:' if i in right else '---' for i in range(len(head))]
  return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in (
      head, ruler, *([escape(cell) for cell in row] for row in rows)))


def escape(text: str) -> str:
  """Text that Markdown shows as it is, on one line, also in a table."""
  for sign in '\\`*|<':             # an underscore inside a word is no emphasis
    text = text.replace(sign, '\\' + sign)
  return ' '.join(text.split())


def _marked(ledger: Ledger, keys: str | tuple[str, ...], text: str) -> str:
  """`text`, marked if one of the ledger's keys behind it is simulated."""
  keys = (keys,) if isinstance(keys, str) else keys
  return text + (' (simulated)' if set(keys) & set(ledger['simulated']) else '')


def _milliseconds(ledger: Ledger, key: str) -> str:
  median, lower, upper = (ledger[key + end] for end in ('', '_lower_quartile', '_upper_quartile'))
  return _marked(ledger, key, f'{median:.3f} ({lower:.3f} to {upper:.3f})')


def _architecture(rows: Sequence[Mapping[str, Any]]) -> str:
  """The dense counterpart of `architecture_kept`, where shapes tell it."""
  rows = [row for row in rows if row['kind'] != 'Embed']
  if any(row['kind'] not in _SIMPLE for row in rows):
    return ''
  return '-'.join(str(row['kernel_shape'][-2 if row['kind'] == 'Dense' else -1]) for row in rows)


def _of(kept: int, whole: int | None) -> str:
  return f'{kept:,}' if whole is None else f'{kept:,} of {whole:,}'
