"""The whole report: its files, its Markdown and the command; expected texts follow the ledger."""
import math
import pathlib
import re
import shutil
import subprocess
import sys

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib import _pylab_helpers

from experiments.report import plots, report, tables
from experiments.report.folder import read_run
from sparsejax import ledger

ROOT = pathlib.Path(__file__).parents[3]
COMMON = {'learning_curves', 'density', 'kept_weights', 'first_layer_weights'}


@pytest.fixture
def l0(l0_source, tmp_path):
  """A copy of the L0 run that a test may damage."""
  return shutil.copytree(l0_source, tmp_path / 'run')


def _written(folder):
  """{name: bytes} of the report; the folder's own path stands in the command."""
  files = {file.name: file.read_bytes() for file in (folder / 'plots').iterdir()}
  return files | {'report.md': (folder / 'report.md').read_text().replace(str(folder), 'FOLDER')}


def _text(folder):
  run = read_run(folder)
  return report.markdown(run, [])


def _cells(text, first):
  """The cells of the table row whose first cell is `first`."""
  row, = (line for line in text.splitlines() if line.startswith(f'| {first} |'))
  return [cell.strip() for cell in row.strip('|').split('|')]


@pytest.mark.parametrize(('source', 'plots'), [
    ('l0_source', COMMON | {'gates_gates', 'inputs_kept'}),
    ('vd_source', COMMON | {'log_alpha_weights', 'inputs_kept'}),
    ('conv_source', COMMON),
])
def test_report_links_the_plots_it_wrote(source, plots, request):
  folder = request.getfixturevalue(source)
  settings = dict(matplotlib.rcParams)
  path = report.write_report(folder)
  assert path == folder / 'report.md'
  linked = re.findall(r'!\[.*\]\((.*)\)', path.read_text())
  assert sorted(linked) == sorted(f'plots/{name}.png' for name in plots)
  assert sorted(linked) == sorted(f'plots/{p.name}' for p in (folder / 'plots').iterdir())
  for name in linked:
    image = matplotlib.image.imread(folder / name)
    assert min(image.shape[:2]) > 150 and max(image.shape[:2]) < 2000
    assert 0.01 < np.mean(image[..., :3].min(axis=2) < 0.9) < 0.95      # neither empty nor full
  assert dict(matplotlib.rcParams) == settings
  assert not _pylab_helpers.Gcf.figs                                     # nothing went to pyplot


@pytest.mark.slow
def test_command_line_writes_the_same_bytes(l0_source, l0):
  if not (l0_source / 'report.md').exists():
    report.write_report(l0_source)
  shutil.rmtree(l0 / 'plots', ignore_errors=True)
  (l0 / 'report.md').write_text('old')
  done = subprocess.run([sys.executable, '-m', 'experiments.report', f'--workdir={l0}'], cwd=ROOT,
                        capture_output=True, text=True, check=True)
  assert done.stdout.strip() == str(l0 / 'report.md')
  assert _written(l0) == _written(l0_source)


@pytest.mark.slow
def test_command_line_names_the_missing_folder(tmp_path):
  command = [sys.executable, '-m', 'experiments.report', f'--workdir={tmp_path / "none"}']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == (
      f'error: {tmp_path / "none"} is no folder; give the --workdir of a run')


def test_what_was_run(l0):
  text, sheet = _text(l0), ledger.read(l0 / 'ledger.json')
  assert _cells(text, 'paper')[1] == 'LoWK17'
  assert _cells(text, 'seed')[1] == '3'
  assert _cells(text, 'data set')[1] == f'digits, checksum {sheet["data_hash"]}'
  assert _cells(text, 'training time')[1] == '83.2 s, compilation included'
  assert _cells(text, 'commit')[1] == '12ab' * 10
  assert 'Python 3.11.7, JAX 0.10.2' in _cells(text, 'versions')[1]
  assert (f'python -m experiments.train --config=experiments/configs/LoWK17/net.py --workdir={l0}'
          in text.splitlines())
  assert '- Deployed parameters: the exponential moving average (EMA, decay 0.99)' in text
  assert '- 237 validation examples were held out' in text
  assert 'our own, not a published one' in text


def test_each_ratio_says_its_denominator(l0):
  text, sheet = _text(l0), ledger.read(l0 / 'ledger.json')
  kept = sheet['weights_kept']
  assert _cells(text, 'weights (non-zero kernel entries)')[1:] == [
      '50,200', f'{kept:,}', f'{50200 / kept:.1f}x',
      'kernel entries of the dense network, biases apart (dense / ours)']
  names = ('weights (non-zero kernel entries)', 'parameters (compact network)',
           'bytes (file of the compact network)', 'flops of one example (compact network)')
  for name in names:
    _, _, _, ratio, relative_to = _cells(text, name)
    assert ratio.endswith('x') and 'dense network' in relative_to
  assert _cells(text, 'architecture kept')[1] == '64-300-100'
  # 0.081 and 0.079 ms with quartiles of -5 % and +8 % overlap; 0.412 and 0.151 do not.
  assert _cells(text, '1') == ['1', '0.081 (0.077 to 0.087)', '0.079 (0.075 to 0.085)', '1.03x',
                               'overlap: no clear difference']
  assert _cells(text, '128')[3:] == ['2.73x', 'apart']
  layer = _cells(text, 'dense1')
  row = sheet['layers'][1]
  assert layer[2:5] == ['300 x 100', f'{row["weights_kept"]:,}', '30,000']
  assert layer[6] == f'{row["inputs_kept"]} of 300'


def test_simulated_numbers_and_lossy_data_say_so(conv_source):
  text = _text(conv_source)
  _, _, file, ratio, _ = _cells(text, 'bytes (file of the compact network)')
  assert file.endswith(' (simulated)') and ratio.endswith('x (simulated)')
  assert 'simulated' not in ''.join(_cells(text, 'parameters (compact network)'))
  assert '- Simulated: bytes_file; only a mask or a label stands behind' in text
  assert 'is lossless' not in text
  assert '- Lossy data: cifar10_jpeg75 holds JPEG copies' in text
  assert '- Only 2,000 training examples were used' in text
  assert '- The working tree had changes' in text
  assert '- Deployed parameters: raw' in text
  assert _cells(text, 'paper')[1] == 'none named in the config'


def test_nothing_held_out(l0):
  sheet = ledger.read(l0 / 'ledger.json')
  ledger.write(l0 / 'ledger.json', sheet | {'validation_error_percent': None})
  text = _text(l0)
  assert _cells(text, 'validation error')[1] == 'none held out'
  assert '- Nothing was held out, so nothing could be chosen on validation data' in text
  assert 'validation examples were held out' not in text


def test_a_validation_set_of_its_own(l0):
  run = read_run(l0)
  notes = report.notes(run._replace(config=run.config | {'validation_examples': 0}))
  assert 'What was chosen was chosen on the validation set that the data set comes with.' in notes
  assert not any('held out' in note for note in notes)


def test_incomplete_metrics_are_noted(l0):
  lines = (l0 / 'metrics.jsonl').read_text().splitlines(keepends=True)
  (l0 / 'metrics.jsonl').write_text(''.join(lines[:-1]) + lines[-1][:20])    # cut by a crash
  assert '- metrics.jsonl ends at epoch 39 of 40; the curves are incomplete' in _text(l0)


def test_cells_stay_one_cell():
  assert tables.table(('a', 'b'), [('x|y\nz', '`*<')], right=(1,)).splitlines() == [
      '| a | b |', '| --- | ---: |', r'| x\|y z | \`\*\< |']


def test_a_language_model_has_its_bits_per_token(l0):
  assert 'bits per token' not in _text(l0)
  path = l0 / 'ledger.json'
  sheet = ledger.read(path)
  bits = sheet['test_nll_nats'] / math.log(2)
  ledger.write(path, sheet | {'test_bits_per_token': bits})
  text = _text(l0)
  assert f' %, {bits:.3f} bits per token, with ' in text
  assert _cells(text, 'test bits per token')[1] == f'{bits:.4f} bits'
  curves = plots.learning_curves(read_run(l0)).figure
  assert curves.axes[0].get_ylabel() == 'NLL (nats per token)'
