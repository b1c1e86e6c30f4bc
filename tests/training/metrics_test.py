"""Rows of metrics.jsonl across crashes."""
import io
import json

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from sparsejax.training.metrics import MetricsLog, read_metrics


def write_rows(folder, epochs, resume_after=0):
  log = MetricsLog(folder, resume_after)
  for epoch in epochs:
    log.write(epoch, {'loss': np.float32(1 / epoch), 'density': 1})
  log.close()


def test_rows_come_back_as_they_were_written(tmp_path):
  write_rows(tmp_path, (1, 2))
  assert read_metrics(tmp_path / 'metrics.jsonl') == [
      {'epoch': 1, 'loss': 1.0, 'density': 1.0}, {'epoch': 2, 'loss': 0.5, 'density': 1.0}]


def test_a_missing_file_has_no_rows(tmp_path):
  assert read_metrics(tmp_path / 'metrics.jsonl') == []


def test_resuming_drops_the_rows_that_will_be_repeated(tmp_path):
  write_rows(tmp_path, (1, 2, 3, 4))
  write_rows(tmp_path, (3,), resume_after=2)
  assert [row['epoch'] for row in read_metrics(tmp_path / 'metrics.jsonl')] == [1, 2, 3]


def test_starting_anew_drops_every_row(tmp_path):
  write_rows(tmp_path, (1, 2))
  write_rows(tmp_path, ())
  assert (tmp_path / 'metrics.jsonl').read_bytes() == b''


@pytest.mark.parametrize('torn', [b'{"epoch": 3, "lo', b'{"epoch": 3, "name": "\xc3', b'{', b'3',
                                  b'{"loss": 3}'])
def test_a_torn_last_line_is_dropped_and_the_file_goes_on_after_it(tmp_path, torn):
  write_rows(tmp_path, (1, 2))
  path = tmp_path / 'metrics.jsonl'
  with path.open('ab') as file:
    file.write(torn)
  assert [row['epoch'] for row in read_metrics(path)] == [1, 2]
  write_rows(tmp_path, (3,), resume_after=2)
  assert [json.loads(line)['epoch'] for line in path.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize('broken', [b'{"epoch": 2, "lo\n', b'\xff\xfe\n', b'[]\n', b'{}\n', b'\n'])
def test_a_broken_line_in_the_middle_raises_and_names_it(tmp_path, broken):
  write_rows(tmp_path, (1, 2))
  path = tmp_path / 'metrics.jsonl'
  first, last = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(first + broken + last)
  with pytest.raises(ValueError, match=r'metrics\.jsonl, line 2 .*new workdir'):
    read_metrics(path)


def test_tensorboard_holds_the_same_numbers(tmp_path):
  log = MetricsLog(tmp_path)
  log.write(1, {'loss': 0.25})
  log.histogram(1, 'weights', np.arange(6.0).reshape(2, 3))
  log.close()
  events, = (tmp_path / 'tensorboard').iterdir()
  values = {value.tag: value for event in records(events.read_bytes())
            for value in event.summary.value}
  assert values['loss'].simple_value == 0.25
  assert values['weights'].histo.num == 6


def test_going_on_tells_tensorboard_everything_anew(tmp_path):
  write_rows(tmp_path, (1, 2, 3))
  before = set((tmp_path / 'tensorboard').iterdir())
  for old in before:
    old.rename(old.with_name('events.out.tfevents.0.earlier'))   # files are named by the second
  write_rows(tmp_path, (3,), resume_after=2)
  newest, = (path for path in (tmp_path / 'tensorboard').iterdir() if 'earlier' not in path.name)
  events = list(records(newest.read_bytes()))
  assert [(event.step, event.session_log.status) for event in events if event.HasField(
      'session_log')] == [(1, event_pb2.SessionLog.START)]       # hides what came before
  assert [(event.step, value.simple_value) for event in events for value in event.summary.value
          if value.tag == 'loss'] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


@pytest.mark.parametrize('broken', ['write', 'flush'])
def test_a_full_disk_names_the_file_and_does_not_wait_for_ever(tmp_path, monkeypatch, broken):
  log = MetricsLog(tmp_path)

  class Full(io.BytesIO):
    def full(self, *arguments):
      raise OSError(28, 'No space left on device')

  setattr(Full, broken, Full.full)
  log.close()
  monkeypatch.setattr(log, '_events', Full())
  for _ in range(50):                                  # more than any queue holds
    with pytest.raises(OSError, match=r'No space left on device; free the disk.*tensorboard'):
      log.write(1, {'loss': 1.0})
  assert read_metrics(tmp_path / 'metrics.jsonl')[0] == {'epoch': 1, 'loss': 1.0}


def records(data):
  """The events of a file: 8 bytes of length, 4 of checksum, the event, 4 of checksum."""
  while data:
    length = int.from_bytes(data[:8], 'little')
    event = event_pb2.Event()
    event.ParseFromString(data[12:12 + length])
    yield event
    data = data[16 + length:]
