"""A ledger as tables for the terminal."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sparsejax.ledger.ledger import RATIOS, validate


def table(ledger: Mapping[str, Any]) -> Group:
  """Returns what `rich.print` shows as a readable sheet; a simulated number says so beside it.

  Raises: ValueError if the ledger does not validate.
  """
  validate(ledger)
  packed = (_packed(ledger), _steps(ledger)) if 'packed_layers' in ledger else ()
  return Group(_heading(ledger), _quality(ledger), _sizes(ledger), _speed(ledger), *packed,
               _layers(ledger))


def _heading(ledger):
  lines = [
      f'{ledger["dataset"]}, {ledger["config"]}, seed {ledger["seed"]}, '
      f'{ledger["epochs"]} epochs in {ledger["wall_seconds"]:.1f} s, '
      f'{ledger["deployed_parameters"]} parameters deployed',
      f'{ledger["device"]}, {ledger["threads"]} threads, JAX {ledger["jax_version"]}, commit '
      f'{ledger["commit"]}, {ledger["time_utc"]}',
  ]
  if 'mesh' in ledger:
    lines.append(f'trained on {ledger["mesh"]} in {ledger["mesh_processes"]} process'
                 + ('es' if ledger['mesh_processes'] > 1 else ''))
  if 'target' in ledger:
    off = 100 * ledger['target_relative_difference']
    lines.append(f'target: {ledger["target"]} {ledger["target_value"]:,g}; reached '
                 f'{ledger["target_reached"]:,g}, {off:+.1f} % off')
  if 'target_natural_density' in ledger:
    lines.append(f'chosen by rank: {ledger["target_weights_cut"]:,} weights cut and '
                 f'{ledger["target_weights_reopened"]:,} reopened, from the density '
                 f'{ledger["target_natural_density"]:.4g} that the strengths had reached')
  lines += [f'warning: {message}' for message in ledger.get('warnings', ())]
  if ledger['simulated']:
    lines.append(f'simulated, only a mask stands behind: {", ".join(ledger["simulated"])}')
  return Text('\n'.join(lines))


def _quality(ledger):
  sheet = _table('Error', 'measure', 'value', 'meaning')
  rows = (
      ('validation_error_percent', 'validation error', '{:.2f} %',
       f'selected by {ledger["selected_by"]}'),
      ('test_error_percent', 'test error', '{:.2f} %', 'deployed network'),
      ('test_nll_nats', 'test NLL', '{:.4f} nats', 'mean per label'),
      ('test_expected_calibration_error_percent', 'test ECE', '{:.2f} %', '15 equal-width bins'),
      ('test_brier', 'test Brier score', '{:.4f}', '0 to 2'),
  )
  if 'test_bits_per_token' in ledger:
    rows += (('test_bits_per_token', 'test bits per token', '{:.4f} bits', 'NLL / ln 2'),)
  if 'test_perplexity' in ledger:
    rows += (('test_perplexity', 'test perplexity', '{:.2f}', 'exp(NLL)'),)
  for key, name, form, meaning in rows:
    value = 'none held out' if ledger[key] is None else form.format(ledger[key])
    sheet.add_row(_label(ledger, key, name), value, escape(meaning))
  return sheet


def _sizes(ledger):
  sheet = _table('Size', 'measure', 'dense', 'deployed', 'ratio', 'ratio relative to')
  names = {'compression_weights': 'weights (non-zero kernel entries)',
           'compression_structure': 'weights (of what is read)',
           'compression_parameters': 'parameters (compact network)',
           'compression_bytes': 'bytes (safetensors file)',
           'compression_zstd': 'bytes (arrays under Zstandard)',
           'compression_coded': 'bytes (container)'}
  for ratio, (dense, kept) in RATIOS.items():
    if ratio not in ledger:
      continue
    sheet.add_row(_label(ledger, kept, names[ratio]), f'{ledger[dense]:,}', f'{ledger[kept]:,}',
                  _label(ledger, ratio, f'{ledger[ratio]:.1f}x'),
                  escape(ledger[f'{ratio}_denominator']))
  if 'bytes_described' in ledger:
    sheet.add_row('bytes (description length)', '', f'{ledger["bytes_described"]:,.0f}', '', '')
  sheet.add_row(_label(ledger, 'flops_compact', 'flops, one example'), f'{ledger["flops_dense"]:,}',
                f'{ledger["flops_compact"]:,}', '', '')
  sheet.add_row(_label(ledger, 'exact_zeros', 'exact zeros'), '', f'{ledger["exact_zeros"]:,}',
                '', '')
  sheet.add_row(_label(ledger, 'architecture_kept', 'architecture kept'), '',
                '-'.join(map(str, ledger['architecture_kept'])), '', '')
  sheet.add_row('compact network against dense', '', f'{ledger["compact_relative_difference"]:.1e}',
                '', 'largest |logit|')
  return sheet


def _speed(ledger):
  sheet = _table(f'Milliseconds, median of {ledger["ms_repeats"]} (quartiles)', 'batch', 'dense',
                 'compact')
  for size in (1, 128):
    sheet.add_row(str(size), *(_label(
        ledger, f'ms_{network}_batch{size}',
        '{:.3f} ({:.3f} to {:.3f})'.format(*(ledger[f'ms_{network}_batch{size}{end}'] for end in (
            '', '_lower_quartile', '_upper_quartile')))) for network in ('dense', 'compact')))
  return sheet


def _packed(ledger):
  sheet = _table('Weights to be packed (the compact network holds the packed ones)', 'weight',
                 'form', 'block', 'density', 'meaning')
  for row in ledger['packed_layers']:
    sheet.add_row(escape(row['path']), row['kind'] if row['packed'] else 'dense',
                  'x'.join(map(str, row['block_size'])), f'{100 * row["density"]:.1f} %',
                  escape(row['reason']))
  return sheet


def _steps(ledger):
  sheet = _table('Milliseconds of a training step, median (quartiles)', 'weights', 'value',
                 'dense / it')
  for name in ('dense', 'masked', 'packed'):
    key = f'ms_train_step_{name}'
    sheet.add_row(name, '{:.3f} ({:.3f} to {:.3f})'.format(
        *(ledger[f'{key}{end}'] for end in ('', '_lower_quartile', '_upper_quartile'))),
        f'{ledger["ms_train_step_dense"] / ledger[key]:.2f}x')
  return sheet


def _layers(ledger):
  sheet = _table('Layers of the deployed network', 'layer', 'kind', 'kernel', 'weights kept', 'of',
                 'inputs', 'outputs', 'zeros', 'flops')
  for row in ledger['layers']:
    sheet.add_row(escape(row['layer'] or '(model)'), row['kind'],
                  ' x '.join(map(str, row['kernel_shape'])), f'{row["weights_kept"]:,}',
                  f'{row["weights_total"]:,}', f'{row["inputs_kept"]:,}',
                  f'{row["outputs_kept"]:,}', f'{row["exact_zeros"]:,}', f'{row["flops"]:,}')
  return sheet


def _label(ledger, key, text):
  """`text`, which holds no brackets, marked if `key` is simulated."""
  return text + (' [bold](simulated)[/bold]' if key in ledger['simulated'] else '')


def _table(title, first, *others):
  sheet = Table(title=title, title_justify='left')
  sheet.add_column(first)
  for name in others:
    text = name in ('meaning', 'ratio relative to', 'kind')
    sheet.add_column(name, justify='left' if text else 'right')
  return sheet
