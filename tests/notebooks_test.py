"""The notebook and its text form agree, and it runs from top to bottom."""

import pathlib

import jupytext
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / 'experiments' / 'notebooks'
PAIRS = sorted(FOLDER.glob('*.ipynb'))


def test_there_is_a_notebook():
  assert [path.stem for path in PAIRS] == ['extend_a_regulariser']


@pytest.mark.parametrize('path', PAIRS, ids=lambda path: path.stem)
def test_both_forms_hold_the_same_cells(path):
  notebook, text = jupytext.read(path), jupytext.read(path.with_suffix('.py'))
  assert ([(cell.cell_type, cell.source) for cell in notebook.cells]
          == [(cell.cell_type, cell.source) for cell in text.cells])


@pytest.mark.parametrize('path', PAIRS, ids=lambda path: path.stem)
def test_it_runs(path, monkeypatch):
  monkeypatch.setenv('MPLBACKEND', 'agg')
  code = '\n\n'.join(cell.source for cell in jupytext.read(path).cells
                     if cell.cell_type == 'code')
  scope = {'__name__': 'notebook'}
  exec(compile(code, path.name, 'exec'), scope)  # our own file, not data
  assert scope['small'].model.hidden < scope['model'].hidden
  assert float(scope['error']) < 15
  assert abs(scope['after'] - scope['before']).max() <= 1e-5 * abs(scope['before']).max()
