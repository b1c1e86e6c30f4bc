"""Compresses a finished run of experiments.train into one file that experiments.evaluate runs.

  python -m experiments.compress --workdir=out/pruned --recipe=deep_compression --out=model.sjx
  python -m experiments.compress --workdir=out/pruned --recipe=codebook --set=bits=4 --out=m.sjx

It prints bytes and errors before and after, and writes them beside the file, as model.json. Options
of a recipe and their defaults are in experiments/compression/<recipe>.py.
"""

import sys

from absl import app, flags, logging

from experiments import command_line

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a finished run.', required=True)
_RECIPE = flags.DEFINE_string('recipe', None, 'What to do: see experiments/compression/recipes.py.',
                              required=True)
_OUT = flags.DEFINE_string('out', None, 'The file to write, *.sjx.', required=True)
_SET = flags.DEFINE_multi_string('set', [], 'Option of the recipe, name=value; may be repeated.')


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imported here so that --help answers at once.
  from experiments.compression.compress import compress_run
  from sparsejax.training.loop import NonFiniteLoss

  logging.set_verbosity(logging.WARNING)
  try:
    compress_run(_WORKDIR.value, _RECIPE.value, _OUT.value, tuple(_SET.value))
  except (ValueError, OSError, NonFiniteLoss) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
