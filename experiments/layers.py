"""The per-layer table of Deep Compression beside the paper's, written to report/<paper>_layers.md.

  python -m experiments.layers --paper=HaMD15 --add=out/model.json --add=out/other.json

The sheets that experiments.compress wrote are added to those in
experiments/results/compressed/<paper>.jsonl; without --add the report is written from these.
"""

import json
import pathlib
import sys

from absl import app, flags

from experiments import command_line

_PAPER = flags.DEFINE_string('paper', None, 'Key of the paper, as in third_party/papers.',
                             required=True)
_ADD = flags.DEFINE_multi_string('add', [], 'Sheet of a compressed run, *.json; may be repeated.')
_REPORT = flags.DEFINE_string('report', 'report', 'Folder of the reports.')


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imported here so that --help answers at once.
  from experiments.compression import layer_report
  from sparsejax.codec import write_atomically

  try:
    added = [json.loads(pathlib.Path(path).read_text(encoding='utf-8')) for path in _ADD.value]
    path = layer_report.results_file(_PAPER.value)
    sheets = (layer_report.add_sheets(path, added) if added
              else layer_report.read_sheets(path))
    text = layer_report.report(_PAPER.value, sheets)
    out = pathlib.Path(_REPORT.value) / f'{_PAPER.value}_layers.md'
    write_atomically(out, (text + '\n').encode())
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  print(text, f'Report: {out}', sep='\n')


if __name__ == '__main__':
  command_line.run(main)
