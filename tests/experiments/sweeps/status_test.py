"""How members stand, from files alone; and the board that shows them."""
import io
import json

import pytest
from rich.console import Console

from experiments.configs.digits import l0_mlp
from experiments.lock import held
from experiments.sweeps import board, status
from experiments.sweeps.diverged import read_diverged, write_diverged
from experiments.sweeps.members import members_of
from sparsejax.training.loop import NonFiniteLoss


@pytest.fixture
def sweep(tmp_path):
  """(folder, members) of which none has begun."""
  return tmp_path, members_of(l0_mlp.get_config(), [{'seed': seed} for seed in range(5)])


def write_rows(folder, epochs):
  folder.mkdir()
  rows = [{'epoch': i, 'validation_error_percent': 10.0 - i} for i in range(1, epochs + 1)]
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def test_the_five_states(sweep):
  folder, members = sweep
  for member in members[1:]:
    write_rows(folder / member.name, 3)
  (folder / members[1].name / 'ledger.json').write_text('{}')
  write_diverged(folder / members[2].name, NonFiniteLoss(4, 7, 'head/bias', None))
  with held(folder / members[3].name, print):
    found = [status.state_of(folder, member) for member in members]
    console = Console(file=io.StringIO(), width=120)
    console.print(status.table(folder, members))
  assert [(one.state, one.epoch, one.error) for one in found] == [
      ('missing', 0, None), ('done', 3, 7.0), ('diverged', 3, 7.0), ('running', 3, 7.0),
      ('interrupted', 3, 7.0)]
  assert found[2].note == 'epoch 4, step 7: head/bias'
  text = console.file.getvalue()
  assert '1 done, 1 running, 1 interrupted, 1 missing, 1 diverged' in text and '3/400' in text
  # A lock that nobody holds any more means nothing, and asking leaves no trace.
  (folder / members[4].name / 'lock').write_text('process 1 on host')
  assert status.state_of(folder, members[4]).state == 'interrupted'
  assert not (folder / members[0].name).exists()


def test_a_damaged_note_is_named(tmp_path):
  (tmp_path / 'diverged.json').write_text('{"epoch": 1}')
  with pytest.raises(ValueError, match='diverged.json is damaged'):
    read_diverged(tmp_path)


def test_lines_where_there_is_no_terminal(sweep):
  console = Console(file=io.StringIO(), width=120)
  names = [member.name for member in sweep[1]]
  with board.Board(console, sweep[1], {}) as shown:
    for epoch in range(1, 401):
      for i, name in enumerate(names[:2]):
        shown.show(name, {'state': 'training', 'epoch': epoch, 'train_nll_nats': i + 0.5})
      shown.epoch(names[:2], epoch)
    shown.show(names[0], {'state': 'measuring'})
  lines = console.file.getvalue().splitlines()
  assert len(lines) == board.LINES + 1 and lines[-1] == 'seed=0: measuring'
  assert lines[0].startswith('epoch 20/400  2 members  NLL 0.5 to 1.5  ')
  assert lines[0].endswith('s left')


def test_a_table_on_a_terminal(sweep):
  console = Console(file=io.StringIO(), width=100, force_terminal=True)
  with board.Board(console, sweep[1], {'seed=3': 'done'}) as shown:
    shown.show('seed=1', {'state': 'training', 'epoch': 7, 'train_nll_nats': 0.25,
                          'validation_error_percent': 3.5, 'density': 0.125})
    shown.epoch(['seed=1'], 7)
  text = console.file.getvalue()
  assert text.index('seed=1') < text.index('seed=0')
  for part in ('7/400', '0.2500', '3.50', '0.1250', 'done'):
    assert part in text
