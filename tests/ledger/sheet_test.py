"""The sheet says every number with its unit, every ratio with its denominator."""
import io
import math

import pytest
from rich.console import Console

from sparsejax import ledger


def shown(values, width=160):
  text = io.StringIO()
  Console(width=width, file=text, color_system=None).print(ledger.table(values))
  return text.getvalue()


def test_the_sheet_shows_the_numbers(whole):
  text = shown(whole)
  for piece in ('digits/net.py', 'seed 3', 'test error', '33.33 %', '2.50 %', 'nats',
                '1.9x', 'kernel entries of the dense network, biases apart',
                'plain float32 safetensors file', f'{whole["bytes_file"]:,}', '2-2-4',
                '3 x 3 x 1 x 4', 'median of 3', f'{whole["ms_dense_batch128"]:.3f} (',
                whole['device']):
    assert piece in text, piece
  assert 'simulated' not in text


def test_bits_stand_in_the_sheet_of_a_language_model(whole):
  assert 'bits' not in shown(whole)
  bits = whole['test_nll_nats'] / math.log(2)
  assert f'{bits:.4f} bits' in shown(whole | {'test_bits_per_token': bits})


def test_the_devices_of_the_training_stand_in_the_sheet(whole):
  assert 'trained on' not in shown(whole)
  assert 'trained on data:4 in 2 processes' in shown(whole | {'mesh': 'data:4',
                                                              'mesh_processes': 2})


def test_every_ratio_stands_in_one_line_with_its_denominator(whole):
  lines = shown(whole).splitlines()
  for ratio in ('compression_weights', 'compression_parameters', 'compression_bytes'):
    assert any(f'{whole[ratio]:.1f}x' in line and whole[f'{ratio}_denominator'] in line
               for line in lines)


def test_simulated_numbers_say_so_beside_them(whole):
  keys = ['flops_compact', 'compression_bytes', 'ms_compact_batch1']
  lines = shown(whole | {'simulated': keys}).splitlines()
  marked = [line for line in lines if '(simulated)' in line]
  assert len(marked) == 3
  assert any('flops' in line for line in marked)
  assert any('bytes (safetensors file)' in line for line in marked)
  assert any('only a mask' in line and 'ms_compact_batch1' in line for line in lines)


def test_brackets_in_names_are_text_and_not_markup(whole):
  rows = [dict(row) for row in whole['layers']]
  rows[0]['layer'] = 'block[red]/conv'
  text = shown(whole | {'layers': rows, 'selected_by': 'best [of 3]', 'config': 'a[bold].py'})
  for piece in ('block[red]/conv', 'best [of 3]', 'a[bold].py'):
    assert piece in text


def test_a_sheet_of_a_broken_ledger_is_refused(whole):
  with pytest.raises(ValueError, match='test_brier is missing'):
    ledger.table({key: value for key, value in whole.items() if key != 'test_brier'})
