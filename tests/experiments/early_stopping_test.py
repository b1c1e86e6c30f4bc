"""The best epoch by validation loss, kept and found again."""
import json

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from experiments import run, workdir
from experiments.early_stopping import BestEpoch
from sparsejax import ledger
from sparsejax.training.checkpoint import DamagedCheckpoint
from sparsejax.training.fit import TrainState
from sparsejax.training.metrics import read_metrics
from tests.experiments import run_test


def state(value):
  import jax
  return TrainState({'w': jnp.float32(value)}, {}, {}, {}, None, jnp.int32(0), jax.random.key(0))


def patience(epochs):
  return ml_collections.ConfigDict({'patience': epochs})


def test_the_best_epoch_is_kept_and_patience_ends_the_run(tmp_path):
  best = BestEpoch(tmp_path, patience(2))
  for epoch, nll in enumerate((3.0, 1.0, 1.0, 2.0), 1):
    assert not best.ended
    best.see(epoch, nll, state(epoch))
  assert best.ended                                    # epoch 2, then two that are no better
  found, words = best.restore(state(0))
  assert float(found.params['w']) == 2
  assert words == 'epoch 2 of 4, which has the lowest validation NLL, 1.0000 nats'
  best.close()


def test_a_run_that_goes_on_knows_what_it_saw(tmp_path):
  best = BestEpoch(tmp_path, patience(3))
  best.see(1, 1.0, state(1))
  best.see(2, 5.0, state(2))
  best.close()
  rows = [{'epoch': 1, 'validation_nll_nats': 1.0}, {'epoch': 2, 'validation_nll_nats': 5.0}]
  again = BestEpoch(tmp_path, patience(3), rows)
  assert (again.epoch, again.nll, again.last) == (1, 1.0, 2)
  again.see(3, 4.0, state(3))
  assert float(again.restore(state(0))[0].params['w']) == 1
  again.close()


def test_the_best_before_the_best_is_kept(tmp_path):
  best = BestEpoch(tmp_path, patience(3))
  for epoch, nll in enumerate((4.0, 3.0, 9.0, 2.0), 1):
    best.see(epoch, nll, state(epoch))
  assert best.store.numbers() == [2, 4]
  best.store.close()


def test_a_damaged_best_epoch_is_no_other_epoch(tmp_path):
  best = BestEpoch(tmp_path, patience(3))
  best.see(1, 2.0, state(1))
  best.see(2, 1.0, state(2))
  (tmp_path / '2' / 'about.json').write_text('{')
  with pytest.raises(DamagedCheckpoint, match='/2 is damaged'):
    best.restore(state(0))
  best.close()


def test_patience_must_be_positive(tmp_path):
  with pytest.raises(ValueError, match='patience=0 must be at least 1'):
    BestEpoch(tmp_path, patience(0))


@pytest.mark.parametrize('changes, message', [
    ({'early_stopping': {'patience': 2}, 'validation_examples': 0}, 'held-out data'),
    ({'early_stopping': {'patience': 2}, 'evaluate_every': 2}, 'evaluate_every=1'),
])
def test_early_stopping_needs_a_validation_loss_of_each_epoch(tmp_path, changes, message):
  config = run_test.small_config(evaluate_every=1)
  with config.unlocked():
    config.update(changes)
  with pytest.raises(ValueError, match=message):
    run.run(config, tmp_path / 'run', 'small.py', run_test.new_console())
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_a_run_deploys_its_best_epoch(tmp_path):
  config = run_test.small_config(evaluate_every=1, ema_decay=0.0)
  with config.unlocked():
    config.early_stopping = ml_collections.ConfigDict({'patience': 1})
  config.optimiser.learning_rate = 3.0                 # so that the loss jumps
  config.regulariser.gates.strength = 0.0
  sheet = run.run(config, tmp_path, 'small.py', run_test.new_console())
  rows = read_metrics(tmp_path / 'metrics.jsonl')
  losses = [row['validation_nll_nats'] for row in rows]
  best = int(np.argmin(losses)) + 1
  assert sheet['selected_by'].startswith(f'epoch {best} of {len(rows)}')
  assert len(rows) == min(best + 1, 4)
  assert sheet['validation_error_percent'] == pytest.approx(
      rows[best - 1]['validation_error_percent'], rel=1e-5)
  assert sheet['epochs'] == len(rows)
  assert ledger.read(tmp_path / 'ledger.json') == sheet
  assert json.loads((tmp_path / 'config.json').read_text()) == json.loads(
      workdir.config_text(config))
