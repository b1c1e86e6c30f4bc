"""The per-layer report from sheets made by hand."""
import json

import pytest

from experiments.compression import layer_report


def layer(name, weights, kept, size):
  return {'layer': f'{name}/kernel', 'weights': weights, 'kept': kept, 'fillers': 0, 'codebook': 4,
          'weight_bits': 2, 'weight_bits_huffman': 1.5, 'index_bits': 5, 'index_bits_huffman': 4.5,
          'bytes_fixed': 2 * size, 'bytes_huffman': size, 'kept_percent': 100 * kept / weights,
          'fixed_percent': 50 * size / weights, 'huffman_percent': 25 * size / weights}


def sheet(seed, error, size=200, bits=5):
  return {'run': 'experiments/configs/HaMD15/lenet_300_100.py', 'seed': seed,
          'recipe': 'deep_compression', 'options': {'bits': bits}, 'test_error_percent': error,
          'test_error_percent_before': 1.5, 'bytes_coded': 1000 * (seed + 1),
          'compression_coded': 40.0 + seed,
          'layers': [layer('dense0', 100, 10, size), layer('dense1', 50, 10, 20),
                     layer('head', 50, 20, 20)]}


def test_means_stand_beside_the_papers_figures():
  text = layer_report.report('HaMD15', [sheet(1, 1.7), sheet(0, 1.6, size=100)])
  assert '| mean | 1.65 | 1.50 | 1,500 | 40.5 |' in text
  assert '| paper | 1.58 | | | 40 |' in text
  assert ('| dense0 | 100 | 10.0 (8) | 2.0 -> 1.5 (6 -> 4.4) | 5.0 -> 4.5 (5 -> 3.7) | '
          '75.00 -> 37.50 (3.1 -> 2.32) |') in text
  # (200 + 100) / 2 + 20 + 20 bytes of 200 weights of 4 bytes
  assert '| total | 200 | 20.0 | | | 47.50 -> 23.75 |' in text
  assert text.index('| 0 | 1.60') < text.index('| 1 | 1.70')
  assert 'LeNet-5' not in text, 'no run of it, no heading'


def test_other_options_are_another_table():
  text = layer_report.report('HaMD15', [sheet(0, 1.6), sheet(0, 1.9, bits=4)])
  assert text.count('## LeNet-300-100') == 2 and 'bits=4' in text and 'bits=5' in text


def test_a_variant_is_another_table():
  short = sheet(0, 1.9) | {'run': 'experiments/configs/HaMD15/lenet_300_100.py:small'}
  text = layer_report.report('HaMD15', [short, sheet(0, 1.6)])
  assert text.index('## LeNet-300-100\n') < text.index('| 0 | 1.60')
  assert text.index('## LeNet-300-100, :small\n') < text.index('| 0 | 1.90')


def test_sheets_are_kept_once(tmp_path):
  path = tmp_path / 'new' / 'sheets.jsonl'
  assert layer_report.read_sheets(path) == []
  layer_report.add_sheets(path, [sheet(0, 1.6), sheet(1, 1.7)])
  layer_report.add_sheets(path, [sheet(1, 1.8), sheet(2, 1.9)])
  found = layer_report.read_sheets(path)
  assert sorted((each['seed'], each['test_error_percent']) for each in found) == [
      (0, 1.6), (1, 1.8), (2, 1.9)]


def test_refuses(tmp_path):
  path = tmp_path / 'compress.jsonl'
  path.write_text(json.dumps(sheet(0, 1.6)) + '\n{\n')
  with pytest.raises(ValueError, match='line 2 is no sheet'):
    layer_report.read_sheets(path)
  with pytest.raises(ValueError, match='no row with `compressed`'):
    layer_report.report('MoAV17', [])
