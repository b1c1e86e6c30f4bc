"""The README's example runs as it stands."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[1] / 'README.md'


@pytest.mark.slow  # 2000 full-batch steps, some ten seconds
def test_the_example_runs(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  code, packing = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)
  scope = {}
  exec(compile(code, 'README.md', 'exec'), scope)  # our own text, not data
  widths = scope['small'].model.widths
  assert widths[0] < 300 and widths[1] <= 100
  assert f'{widths}' in capsys.readouterr().out
  before = scope['model'].apply({'params': scope['sparsejax'].finalise(
      scope['regulariser'], scope['params'], scope['state'])}, scope['images'])
  after = scope['small'].model.apply(scope['small'].variables, scope['images'])
  assert abs(after - before).max() <= 1e-5 * abs(before).max()
  scope['weights'] = scope['small'].variables['params']
  scope['model'] = scope['small'].model
  exec(compile(packing, 'README.md', 'exec'), scope)
  assert abs(scope['logits'] - after).max() <= 1e-5 * abs(after).max()
  assert len(scope['report']) == 2


def test_the_example_is_short():
  code = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)[0]
  assert len([line for line in code.splitlines() if line.strip()]) <= 27
