"""The smoke variant of every config file, found by its path, and the promises of its docstring."""
import importlib
import io
import pathlib

import ml_collections
import pytest
from rich.console import Console

import experiments
from experiments import build, datasets, run
from sparsejax import codec, ledger
from sparsejax.paths import flatten
from sparsejax.structured import Packed

ROOT = pathlib.Path(experiments.__file__).parent
FILES = sorted(path for path in (ROOT / 'configs').glob('*/*.py') if path.name != '__init__.py')
NAMES = ['/'.join((path.parent.name, path.stem)) for path in FILES]


def module(name):
  return importlib.import_module('experiments.configs.' + name.replace('/', '.'))


def variants(name):
  """The one without name, 'smoke', and those that the docstring names, as in ':paper'."""
  words = module(name).__doc__.split()
  return ['', *sorted({'smoke', *(word[1:] for word in words if word.startswith(':'))})]


def test_there_are_configs():
  assert len(NAMES) >= 8


@pytest.mark.parametrize('name', NAMES)
def test_every_variant_is_whole_and_builds(name):
  doc = module(name).__doc__
  assert f'experiments/configs/{name}.py' in doc, 'the docstring names the command'
  assert 'Ours:' in doc or not module(name).get_config().paper, 'what was obtained, or "not run"'
  for variant in variants(name):
    config = module(name).get_config(variant)
    assert isinstance(config, ml_collections.ConfigDict)
    build.require_whole(config)
    build.regulariser(config.regulariser, 10)
    build.model(config.model)
    build.optimiser(config.optimiser, 10)
    build.penalty_weight(config.penalty_weight, 10)
  with pytest.raises(ValueError, match="variant 'nonsense' is not"):
    module(name).get_config('nonsense')


@pytest.mark.slow  # a compilation each; the demonstration's runs among the fast tests, run_test.py
@pytest.mark.parametrize('name', NAMES)
def test_the_smoke_variant_runs_from_start_to_report(name, tmp_path):
  config = module(name).get_config('smoke')
  if config.dataset != 'digits':
    try:
      datasets.load(config.dataset)
    except (ValueError, OSError) as error:
      pytest.skip(f'{config.dataset} is not in the data folder: {error}')
  console = Console(file=io.StringIO(), width=120)
  sheet = run.run(config, tmp_path, f'experiments/configs/{name}.py', console)
  ledger.validate(sheet)
  assert ledger.read(tmp_path / 'ledger.json') == sheet
  assert sheet['compact_relative_difference'] <= 1e-5
  compact = flatten(codec.read(tmp_path / 'model.safetensors')['params'])
  assert sheet['parameters_compact'] == sum(
      leaf.entries() if isinstance(leaf, Packed) else leaf.size for leaf in compact.values())
  assert sheet['parameters_compact'] <= sheet['parameters_dense']
  assert (tmp_path / 'report.md').exists()
  assert run.run(config, tmp_path, name, console) == sheet
