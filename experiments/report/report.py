"""The report of a run: its ledger, plots and notes in one Markdown file, from its folder alone."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from experiments.report import figures, recurrent, tables, texts
from experiments.report.figures import Plot
from experiments.report.folder import Run, read_run
from experiments.report.plots import all_plots
from experiments.report.tables import escape
from sparsejax.codec import write_atomically

REPORT_FILE = 'report.md'
PLOTS_FOLDER = 'plots'
DATASET_NOTES = {
    'digits': 'digits: the split into training and test set is our own, not a published one; both '
              'share writers, so errors are lower than on new writers.',
    'embedded_reviews': 'embedded_reviews: made-up reviews, which show that the machinery works '
                        'and nothing else.',
    'embedded_text_stream': 'embedded_text_stream: four verses over and over; the test text holds '
                            'nothing new.',
    'embedded_words': 'embedded_words: four verses over and over; the test text holds nothing '
                      'new.',
    'imdb': 'imdb: the vocabulary is that of the training texts; of a review the first 200 words '
            'are read.',
    'ptb_char_windows': 'ptb_char_windows: the network starts each window of the text from a zero '
                        'state, as in the paper; a carried state guesses better.',
    'ptb_word_2000': 'ptb_word_2000: all but the 2,000 most frequent words are <unk>, which is '
                     'easier to guess: perplexities are not comparable with those published.',
    'tiny_shakespeare': 'tiny_shakespeare: the network starts each window of the text from a zero '
                        'state, so that its bits per character are a little more than with a state '
                        'carried on.',
}


def write_report(folder: str | pathlib.Path) -> pathlib.Path:
  """Writes plots/*.png and then report.md, each atomically; returns the path of report.md.

  The folder is that of a finished run, with its ledger.json. The same folder gives the same bytes.

  Raises:
    ValueError: naming the file and the repair, if one is missing or damaged; then nothing is
      written.
  """
  run = read_run(folder)
  plots = all_plots(run)
  pictures = {plot.name: figures.png(plot.figure) for plot in plots if plot.figure is not None}
  (run.folder / PLOTS_FOLDER).mkdir(exist_ok=True)
  for name, data in pictures.items():
    write_atomically(run.folder / PLOTS_FOLDER / f'{name}.png', data)
  path = run.folder / REPORT_FILE
  write_atomically(path, markdown(run, plots).encode())
  return path


def markdown(run: Run, plots: Sequence[Plot]) -> str:
  """Returns the text of report.md."""
  ledger = run.ledger
  drawn = []
  for plot in plots:
    picture = [f'![{plot.title}]({PLOTS_FOLDER}/{plot.name}.png)', '']
    drawn += [f'### {plot.title}', '', *(picture if plot.figure is not None else []), plot.reading,
              '']
  sections = [
      f'# {escape(title(run))}', '',
      summary(run), '',
      '## What was run', '', what_was_run(run), '',
      'The command, to run it again or go on where it stopped:', '',
      '```', command(run), '```', '',
      ('A variant of the config or a field overridden on the command line is not known here and '
       'must be added; `config.json` holds every field as it was used.'), '',
      '## Results', '',
      '### Error', '', tables.quality(ledger), '',
      '### Size', '', tables.size(ledger), '',
      '### Speed', '',
      (f'Median of {ledger["ms_repeats"]} calls and its quartiles, in milliseconds, dense and '
       f'compact network in turn on {escape(ledger["device"])}. Both run the same code; the dense '
       'one has its zeros in place.'), '',
      tables.speed(ledger), '',
      *_packing(ledger),
      '### Layers of the deployed dense network', '', tables.layers(ledger), '',
      ('Inputs and outputs are slices of the kernel that are not all zero. An output may count '
       'here though no later layer reads it; the compact network does without it.'), '',
      *recurrent.structure(run),
      *texts.text_sections(run),
      '## Plots', '', *drawn,
      '## Notes', '', *(f'- {note}' for note in notes(run)), '',
  ]
  return '\n'.join(sections)


def _packing(ledger: dict[str, Any]) -> list[str]:
  if 'packed_layers' not in ledger:
    return []
  return ['### Packed weights', '',
          ('The compact network above holds these weights in packed form where that was predicted '
           'to be faster than dense.'), '',
          tables.packing(ledger), '',
          ('A training step of it (gradients, optimiser, new weights; nothing of the method), with '
           'every weight dense, with a mask multiplied in at every step, and packed with its '
           'pattern fixed:'), '',
          tables.training_steps(ledger), '']


def title(run: Run) -> str:
  """What was done to which network on which data."""
  methods = sorted({rule['method'] for rule in _rules(run).values() if 'method' in rule})
  model = run.config.get('model', {}).get('name', 'network')
  return f'{", ".join(methods) or "no method"} on {model}, {run.ledger["dataset"]}'


def summary(run: Run) -> str:
  """The result in one sentence."""
  ledger = run.ledger
  def mark(*keys):
    return ' (simulated)' if set(keys) & set(ledger['simulated']) else ''
  bits = ''
  if 'test_bits_per_token' in ledger:
    bits = f', {ledger["test_bits_per_token"]:.3f} bits per token,'
  if 'test_perplexity' in ledger:
    bits = f'{bits} perplexity {ledger["test_perplexity"]:.2f},'
  return (f'**Test error {ledger["test_error_percent"]:.2f} %{mark("test_error_percent")}{bits} '
          'with '
          f'{ledger["weights_kept"]:,} of {ledger["weights_total"]:,} weights '
          f'({ledger["compression_weights"]:.1f}x fewer kernel entries than the dense network'
          f'{mark("weights_kept", "compression_weights")}), in a file of '
          f'{ledger["bytes_file"]:,} bytes ({ledger["compression_bytes"]:.1f}x smaller than the '
          f'dense network in float32{mark("bytes_file", "compression_bytes")}).**')


def what_was_run(run: Run) -> str:
  """Provenance as a table."""
  config, ledger = run.config, run.ledger
  rules = '; '.join(f'{name}: {rule.get("method", "?")} on {rule.get("leaves", "?")}'
                    for name, rule in sorted(_rules(run).items()))
  versions = ', '.join(f'{name} {ledger[f"{name.lower()}_version"]}'
                       for name in ('Python', 'JAX', 'jaxlib', 'Flax', 'Optax', 'NumPy'))
  hours, seconds = divmod(ledger['wall_seconds'], 3600)
  time = f'{int(hours)} h {int(seconds // 60)} min' if hours else f'{seconds:.1f} s'
  rows = [
      ('paper', config.get('paper') or 'none named in the config'),
      ('config', f'{ledger["config"]}, SHA-256 {ledger["config_hash"]}'),
      ('data set', f'{ledger["dataset"]}, checksum {ledger["data_hash"]}'),
      ('rules', rules or 'none'),
      ('seed', str(ledger['seed'])),
      ('epochs', str(ledger['epochs'])),
      ('training time', f'{time}, compilation included'),
      ('device', (f'{ledger["device"]}, {ledger["threads"]} host threads '
                  f'({ledger["threads_source"]})')),
      ('versions', versions),
      ('commit', ledger['commit']),
      ('ended', ledger['time_utc']),
  ]
  return tables.table(('', ''), rows)


def command(run: Run) -> str:
  """The command of the run, as far as its folder knows it."""
  return ('python -m experiments.train --config=' + shlex.quote(run.ledger['config'])
          + ' --workdir=' + shlex.quote(str(run.folder)))


def notes(run: Run) -> list[str]:
  """What a reader must know before comparing the numbers with others."""
  ledger = run.ledger
  return [escape(note) for note in (*_choice(run), *_deployment(run), *_data(ledger),
                                    *_reservations(run))]


def _choice(run: Run) -> list[str]:
  held = run.config.get('validation_examples')
  if run.ledger['validation_error_percent'] is None:
    where = ('Nothing was held out, so nothing could be chosen on validation data; the error of '
             'the learning curve is on training images.')
  elif held == 0:
    where = 'What was chosen was chosen on the validation set that the data set comes with.'
  else:
    count = f'{held:,} ' if isinstance(held, int) else ''
    where = (f'{count}validation examples were held out of the training set and not trained on; '
             'what was chosen was chosen on them.')
  return [f'Selected by: {run.ledger["selected_by"]}.', where,
          'The test set was scored once, on the deployed network.']


def _deployment(run: Run) -> list[str]:
  ledger = run.ledger
  if ledger['deployed_parameters'] == 'ema':
    decay = run.config.get('ema_decay')
    average = (f'Deployed parameters: the exponential moving average (EMA{_with(decay)}), '
               'bias-corrected, also in the curves of the deployed network.')
  else:
    average = 'Deployed parameters: raw, as the last step left them, without averaging.'
  simulated = 'Simulated: nothing; each number was measured on the network it speaks of.'
  if ledger['simulated']:
    simulated = (f'Simulated: {", ".join(ledger["simulated"])}; only a mask or a label stands '
                 'behind these numbers, no smaller network or file.')
  lossless = ('The file of the compact network is lossless; its size, speed and difference were '
              'measured on what was read back from it.')
  return [average, simulated, *(() if 'bytes_file' in ledger['simulated'] else (lossless,))]


def _data(ledger: dict[str, Any]) -> list[str]:
  found = []
  name = ledger['dataset']
  if 'jpeg' in name.lower():
    found.append(f'Lossy data: {name} holds JPEG copies, for training and test alike; errors are '
                 'not comparable with those published for the original images.')
  if name in DATASET_NOTES:
    found.append(DATASET_NOTES[name])
  return found


def _reservations(run: Run) -> list[str]:
  """Weak points of this very run."""
  ledger, found = run.ledger, []
  last = run.metrics[-1]['epoch']
  if last != ledger['epochs']:
    found.append(f'metrics.jsonl ends at epoch {last:g} of {ledger["epochs"]}; the curves are '
                 'incomplete, the tables are not.')
  used = run.config.get('training_examples')
  if used:
    found.append(f'Only {used:,} training examples were used (training_examples).')
  if ledger['commit'].endswith('-dirty'):
    found.append('The working tree had changes that the commit does not hold.')
  elif ledger['commit'] == 'unknown':
    found.append('The commit is unknown: the code ran outside of a git checkout.')
  return [*found, 'One run with one seed: it says nothing about the spread over seeds.']


def _rules(run: Run) -> dict[str, dict[str, Any]]:
  return run.config.get('regulariser', {})


def _with(decay: float | None) -> str:
  return f', decay {decay:g}' if decay else ''
