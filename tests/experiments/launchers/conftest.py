"""A SLURM that only writes down what it is told."""
import os
import stat
import types

import pytest

from experiments.configs.digits import l0_mlp
from experiments.launchers import options as options_module
from experiments.sweeps import runner

SCRIPTS = {
    'sbatch': 'cp "$1" script; cat refusal >&2; test ! -s refusal && echo Submitted batch job 17',
    'squeue': 'echo "$@" >> asked; cat trouble >&2; cat queue; test ! -s trouble',
    'scontrol': 'echo "$@" >> told; cat trouble >&2; test ! -s trouble',
    'srun': 'exit 1',
}
OVERRIDES = [{'seed': seed, 'model.widths': (width,)} for width in (6, 5) for seed in (0, 1)]
FIRST, SECOND = (['seed=0,widths=6', 'seed=1,widths=6'], ['seed=0,widths=5', 'seed=1,widths=5'])


@pytest.fixture
def cluster(tmp_path, monkeypatch):
  """A folder with the files `queue`, `trouble` and `refusal`, which the commands read, and `told`,
  `asked` and `script`, which they write."""
  folder = tmp_path / 'cluster'
  folder.mkdir()
  for name in ('queue', 'trouble', 'refusal', 'told', 'asked'):
    (folder / name).touch()
  for name, text in SCRIPTS.items():
    path = folder / name
    path.write_text(f'#!/bin/sh\ncd {folder}\n{text}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
  return folder


@pytest.fixture
def sweep(tmp_path, monkeypatch):
  """A sweep of two programs of two members each that nobody trains; `launch()` submits it."""
  folder = tmp_path / 'sweep'

  def by_width(members):
    groups = {}
    for member in members:
      groups.setdefault(member.config.model.widths, []).append(member)
    return list(groups.values())
  monkeypatch.setattr(runner, 'programs', by_width)

  def launch(options=options_module.Options(), where=folder, overrides=OVERRIDES, **changes):
    from experiments.launchers import slurm
    base = l0_mlp.get_config()
    base.update(changes)
    return slurm.launch(base, overrides, where, 'small.py', options, ['--members_at_once=3'])

  def end(names):
    for name in names:
      (folder / name).mkdir(parents=True, exist_ok=True)
      for file in ('ledger.json', 'report.md'):
        (folder / name / file).write_text('{}')
  return types.SimpleNamespace(folder=folder, launch=launch, end=end)
