"""Runs a network from its file alone, on the test set, and prints error, NLL and bytes.

  python -m experiments.evaluate --model=model.sjx
  python -m experiments.evaluate --model=model.sjx --config.dataset=mnist

Model, weights and preprocessing are those in the file, and the data set too unless one is named.
"""

import sys

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from experiments import command_line

_MODEL = flags.DEFINE_string('model', None, 'The file, *.sjx, of experiments.compress or a run.',
                             required=True)
_CONFIG = command_line.defined(lambda: config_flags.DEFINE_config_dict(
    'config', ml_collections.ConfigDict({'dataset': '', 'streams': 1}),
    'dataset: in place of the one that the file names. streams: in how many texts, read side by '
    'side, a long text is cut for a network that hands its state on.'))


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imported here so that --help answers at once.
  from rich.console import Console

  from experiments.file_scores import score_file

  try:
    score_file(_MODEL.value, _CONFIG.value.dataset, streams=_CONFIG.value.streams,
               console=Console())
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
