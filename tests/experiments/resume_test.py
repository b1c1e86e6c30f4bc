"""Training that is cut off, inside epochs too, and what goes on from what is left."""
import shutil

import jax
import ml_collections
import numpy as np
import pytest

from experiments import epochs, run
from experiments.resume import resume_point, stores
from experiments.stopping import Stopped, StopSignals
from sparsejax.training import pieces
from sparsejax.training.checkpoint import named_leaves
from sparsejax.training.loop import NonFiniteLoss
from sparsejax.training.metrics import MetricsLog, read_metrics
from tests.experiments import run_test

pytestmark = pytest.mark.usefixtures('compile_once')

STEPS = 4


class AskedAfter(StopSignals):
  """Is asked by SIGTERM once it has been looked at so many times."""

  def __init__(self, looks):
    super().__init__()
    self.looks = looks

  @property
  def number(self):
    self.looks -= 1
    if self.looks == 0:
      self._asked = 15
    return super().number


@pytest.fixture(autouse=True)
def single_steps(monkeypatch):
  """Each step is a piece of its epoch."""
  monkeypatch.setattr(pieces, 'PIECE_SECONDS', 0.0)
  monkeypatch.setattr(pieces, '_STEPS_AT_ONCE', 1)


def config(**changes):
  made = run_test.small_config(epochs=3, evaluate_every=1, checkpoint_every=1, **changes)
  with made.unlocked():
    made.early_stopping = ml_collections.ConfigDict({'patience': 3})
  return made


@pytest.fixture(scope='module')
def begun():
  return run.begin(config())


def train(begun, folder, stop=None, console=None, minutes=60.0):
  data, recipe, state = begun
  return epochs.train(config(), recipe, state, data, folder, console or run_test.new_console(),
                      stop, minutes)[0]


@pytest.fixture(scope='module')
def whole(begun, tmp_path_factory):
  """(folder, last state) of training left alone."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, train(begun, folder)


def assert_as_whole(whole, folder, state):
  a, b = named_leaves(whole[1]), named_leaves(state)
  assert list(a) == list(b)
  for name in a:
    assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), name
  assert run_test.without_seconds(folder) == run_test.without_seconds(whole[0])


def texts(console):
  return console.file.getvalue().replace('\n', ' ')


def test_a_run_stopped_inside_an_epoch_goes_on_there(whole, begun, tmp_path):
  # It is looked at after steps 1, 2, 3 and the end of an epoch.
  with pytest.raises(Stopped, match=r'stopped by SIGTERM; the state after 2 of 4 steps of epoch 2 '
                                    r'is kept in .*inside_epoch\. The same command') as caught:
    train(begun, tmp_path, AskedAfter(looks=STEPS + 2))
  assert caught.value.exit_code == 143
  assert [path.name for path in (tmp_path / 'inside_epoch').iterdir()] == [str(STEPS + 2)]
  before = read_metrics(tmp_path / 'metrics.jsonl')
  assert len(before) == 1
  console = run_test.new_console()
  state = train(begun, tmp_path, console=console)
  assert 'Going on after epoch 1 and 2 of 4 steps' in texts(console)
  assert_as_whole(whole, tmp_path, state)
  assert read_metrics(tmp_path / 'metrics.jsonl')[0] == before[0]


def test_a_run_asked_to_stop_at_the_end_of_an_epoch_keeps_that(begun, tmp_path):
  with pytest.raises(Stopped, match='the state after epoch 1 of 3 is kept in .*checkpoints'):
    train(begun, tmp_path, AskedAfter(looks=STEPS))


def test_states_are_kept_by_the_clock_and_damaged_ones_passed_over(whole, begun, tmp_path):
  """Cut off in the third epoch, with every step kept."""
  with pytest.raises(KeyboardInterrupt):
    train(begun, tmp_path, minutes=0.0,
          console=run_test.Interrupting(file=run_test.io.StringIO(), width=120))
  # What is newest now: the best epoch 3 or, if it is none, the state after step 3 of it.
  inside, = (tmp_path / 'inside_epoch').glob('[0-9]*')
  assert inside.name == str(2 * STEPS + 3)
  shutil.rmtree(tmp_path / 'best' / '3', ignore_errors=True)
  (inside / 'notes.json').write_text('{"losses": [0, 0, 0], "seconds": 0}')
  console = run_test.new_console()
  state = train(begun, tmp_path, console=console)
  seen = texts(console)
  assert f'warning: checkpoint {inside} is damaged: notes.json is not as it was written' in seen
  assert f'it is skipped, and {tmp_path / "checkpoints" / "2"} used in its place' in seen
  assert 'Going on after epoch 2, from' in seen
  assert_as_whole(whole, tmp_path, state)


@pytest.fixture
def copy(whole, tmp_path):
  """A copy of a finished training with all that it kept."""
  shutil.copytree(whole[0], tmp_path / 'copy')
  return tmp_path / 'copy'


def point_of(begun, folder):
  """(where it goes on, warnings)."""
  warnings = []
  kept = stores(folder, config().early_stopping)
  try:
    return resume_point(folder, kept, begun[2], STEPS, warnings.append), warnings
  finally:
    kept.close()


def spoil(folder):
  (folder / 'about.json').write_text('{')


def test_nothing_sound_is_an_error_and_no_new_start(begun, copy):
  for store in ('checkpoints', 'best'):
    for path in (copy / store).iterdir():
      spoil(path)
  with pytest.raises(ValueError, match='none of the checkpoints can be used, and starting from the '
                                       'beginning is not going on: .*checkpoints/3 is damaged'):
    point_of(begun, copy)


def test_nothing_kept_is_a_start_that_is_told(begun, copy):
  for store in ('checkpoints', 'best'):
    shutil.rmtree(copy / store)
  point, warnings = point_of(begun, copy)
  assert (point.epochs, point.rows) == (0, []) and point.state is begun[2]
  assert len(warnings) == 1 and 'tells of 3 epochs, but no state was kept yet' in warnings[0]


def test_metrics_that_are_lost_take_the_states_after_them_along(begun, copy):
  path = copy / 'metrics.jsonl'
  path.write_bytes(b''.join(path.read_bytes().splitlines(keepends=True)[:2]))
  point, warnings = point_of(begun, copy)
  assert point.epochs == 2 and len(point.rows) == 2
  assert 'checkpoints/3 cannot be used' in warnings[0] and 'metrics.jsonl has not' in warnings[0]


def best_epoch(folder):
  return min((row['validation_nll_nats'], int(row['epoch']))
             for row in read_metrics(folder / 'metrics.jsonl'))[1]


def test_a_lost_best_epoch_is_taken_from_the_checkpoints(begun, copy):
  best = best_epoch(copy)
  if not (copy / 'checkpoints' / str(best)).exists():
    kept = stores(copy, config().early_stopping)
    state, _ = kept.best.store.load(best, begun[2])
    kept.whole.save(best, state)
    kept.close()
  shutil.rmtree(copy / 'best')
  point, _ = point_of(begun, copy)
  assert point.epochs >= best and (copy / 'best' / str(best)).exists()


def test_a_lost_best_epoch_is_trained_again_from_before_it(whole, begun, tmp_path):
  """Losses of the three epochs that make the second the best; only states 1 and 3 are left."""
  log = MetricsLog(tmp_path)
  for epoch, nll in ((1, 3.0), (2, 1.0), (3, 2.0)):
    log.write(epoch, {'validation_nll_nats': nll, 'seconds': 1.0})
  log.close()
  kept = stores(tmp_path, config().early_stopping)
  kept.best.store.save(1, begun[2])
  kept.best.store.save(2, begun[2])
  kept.whole.save(3, begun[2])
  kept.close()
  assert point_of(begun, tmp_path)[0].epochs == 3
  spoil(tmp_path / 'best' / '2')
  point, warnings = point_of(begun, tmp_path)
  assert point.epochs == 1
  assert 'the best epoch so far, 2, is lost (checkpoint' in warnings[0]
  shutil.rmtree(tmp_path / 'best' / '1')
  with pytest.raises(ValueError, match='none of the checkpoints can be used'):
    point_of(begun, tmp_path)


def test_a_loss_that_is_not_finite_is_met_again_from_inside_its_epoch(tmp_path):
  made = run_test.small_config(epochs=2, checkpoint_every=100, ema_decay=0.0)
  made.regulariser = ml_collections.ConfigDict({
      'decay': {'leaves': '.*kernel', 'method': 'weight_decay', 'strength': 1.0}})
  made.optimiser = ml_collections.ConfigDict({'name': 'sgd', 'learning_rate': {
      'schedule': 'piecewise_linear', 'epochs': (1.25, 1.5), 'values': (0.01, 1e38)}})
  data, recipe, state = run.begin(made)
  errors = []
  for _ in range(3):
    with pytest.raises(NonFiniteLoss, match='epoch 2, step 3; ') as caught:
      epochs.train(made, recipe, state, data, tmp_path, run_test.new_console(), None, 0.0)
    errors.append(str(caught.value))
    good = caught.value.last_good
    assert all(np.all(np.isfinite(np.asarray(leaf))) for leaf in jax.tree.leaves(good.params))
  assert errors[0] == errors[1] == errors[2]
  assert [len(read_metrics(tmp_path / 'metrics.jsonl')), int(good.step)] == [1, STEPS + 3]
