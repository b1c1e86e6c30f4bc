"""The list of configs, against the files themselves."""
import io
import textwrap

import pytest
from rich.console import Console

from experiments import listing
from experiments.command_line import CONFIGS
from experiments.evidence.configs import load_config


def test_every_config_is_listed_with_its_paper():
  found = {config.path for config in listing.configs()}
  assert found == {path for path in CONFIGS.rglob('*.py') if path.name != '__init__.py'}
  assert all(config.title.endswith('.') or 'table' in config.title for config in listing.configs())


@pytest.mark.parametrize('name', ['LoWK17/lenet_300_100', 'GrRK00/wide_mlp', 'LoCV17/imdb'])
def test_listed_variants_can_be_built(name):
  config = next(c for c in listing.configs() if str(c.path).endswith(f'{name}.py'))
  assert 'smoke' in config.variants
  for variant in config.variants:
    assert load_config(f'{name}:{variant}').paper == config.path.parent.name


def test_a_docstring_is_read_as_it_is_written(tmp_path):
  path = tmp_path / 'net.py'
  path.write_text(textwrap.dedent('''
      """A method on a net, a
      data set; a paper.

      Run:      python -m experiments.train
      Variants: :one    the first,
                        told on two lines
                :two    the second
      Paper:    1 %.
      """
      raise SystemExit('it was imported')
  '''))
  assert listing.read(path) == listing.Config(path, 'A method on a net, a data set; a paper.', {
      'one': 'the first, told on two lines', 'two': 'the second'})


def test_the_whole_list_is_printed():
  console = Console(file=io.StringIO(), width=40)
  listing.show(console)
  text = console.file.getvalue()
  assert 'LoWK17' in text and ':smoke' in text and '[' not in text.split('Run one')[0]
