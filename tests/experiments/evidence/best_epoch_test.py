"""The best epoch so far, by hand."""
import pytest

from experiments.evidence.best_epoch import BestEpoch


def test_the_lowest_loss_wins_and_the_first_of_equals():
  best = BestEpoch(3)
  assert (best.number, best.state, best.ended) == (0, None, False)
  for number, (nll, number_of_best, ended) in enumerate(
      [(2.0, 1, False), (1.5, 2, False), (1.5, 2, False), (1.7, 2, False), (1.6, 2, True)], 1):
    best.see(number, nll, f'state {number}')
    assert (best.number, best.state, best.ended) == (number_of_best, f'state {number_of_best}',
                                                     ended)
  assert best.nll == 1.5


def test_a_loss_that_is_no_number_is_no_best():
  best = BestEpoch(1)
  best.see(1, float('nan'), 'state')
  assert (best.number, best.state, best.ended) == (0, None, True)


def test_a_patience_of_nothing_is_refused():
  with pytest.raises(ValueError, match='early_stopping.patience=0 must be at least 1 epoch'):
    BestEpoch(0)
