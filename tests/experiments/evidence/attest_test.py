"""Stale results hold if, and only if, the first epochs repeat on the same device."""
import types

import pytest

from experiments.evidence import attest as attesting
from experiments.evidence.results import Result, add_results, read_results

HERE = {'device': 'cpu: 1 x test', 'threads': 1, 'jax_version': '0.10.2'}
LOSSES = (0.5, 0.25)


@pytest.fixture
def present(monkeypatch):
  """The present code has the checksum 'now', this machine is HERE, and training gives LOSSES."""
  repeated = []

  def repeat(config, data, epochs):
    repeated.append((config.seed, epochs))
    return list(LOSSES)
  monkeypatch.setattr(attesting, 'code_hash', lambda config: 'now')
  monkeypatch.setattr(attesting, 'load_config',
                      lambda name, seed=None: types.SimpleNamespace(name=name, seed=seed))
  monkeypatch.setattr(attesting.ledger, 'describe_run', lambda: HERE)
  monkeypatch.setattr(attesting, 'load', lambda config: types.SimpleNamespace(
      dataset=types.SimpleNamespace(hash='data')))
  monkeypatch.setattr(attesting, 'repeat', repeat)
  return repeated


def result(ledger_of, seed, code='old', losses=LOSSES, config='A17/net:paper', **changes):
  sheet = ledger_of(seed=seed, config_hash=f'{config}{seed}', **{**HERE, **changes})
  return Result(config, code, sheet, '', losses)


def test_what_repeats_is_attested_for_all_seeds_of_that_code(tmp_path, console, ledger_of, present):
  path = tmp_path / 'A17.jsonl'
  rows = [result(ledger_of, 2), result(ledger_of, 1), result(ledger_of, 3, code='older'),
          result(ledger_of, 4, code='now')]
  add_results(path, rows)
  assert attesting.attest(path, console) == 0
  assert present == [(1, 2)]                       # one training, of the lowest stale seed
  attested = {row.ledger['seed']: row.attested for row in read_results(path)}
  assert attested == {1: ('now',), 2: ('now',), 3: (), 4: ()}
  assert read_results(path)[0].holds_for('now') and not read_results(path)[2].holds_for('now')
  assert '2 results hold' in console.file.getvalue()


@pytest.mark.parametrize('changes, losses, why', [
    ({}, (0.5, 0.2500004), 'differs by up to 1.6e-06'),
    ({}, (), 'no losses to repeat'),
    ({'threads': 2}, LOSSES, 'threads is 1 here and 2 in the result'),
    ({'jax_version': '0.9'}, LOSSES, 'jax_version is 0.10.2 here and 0.9'),
    ({'data_hash': 'other'}, LOSSES, 'the data differ'),
])
def test_what_does_not_repeat_stays_stale(tmp_path, console, ledger_of, present, changes, losses,
                                          why):
  path = tmp_path / 'A17.jsonl'
  add_results(path, [result(ledger_of, 0, losses=losses, **changes)])
  before = path.read_bytes()
  assert attesting.attest(path, console) == 1
  assert path.read_bytes() == before
  assert why in console.file.getvalue()


def test_a_difference_in_the_last_bits_is_let_go(tmp_path, console, ledger_of, present):
  path = tmp_path / 'A17.jsonl'
  add_results(path, [result(ledger_of, 0, losses=(0.5, 0.2500001))])
  assert attesting.attest(path, console) == 0
