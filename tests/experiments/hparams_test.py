"""TensorBoard's table of runs, read back as protocol buffers."""
import ml_collections
import pytest
from tensorboardX.proto import event_pb2, plugin_hparams_pb2

from experiments import hparams
from experiments.configs.digits import l0_mlp
from sparsejax.training.metrics import MetricsLog

SHEET = {'epochs': 7, 'validation_error_percent': 1.5, 'weights_kept': 123, 'bytes_file': 4567,
         'test_error_percent': 9.0}


def records(data):
  """The events of a file: 8 bytes of length, 4 of checksum, the event, 4 of checksum."""
  while data:
    length = int.from_bytes(data[:8], 'little')
    yield event_pb2.Event.FromString(data[12:12 + length])
    data = data[16 + length:]


def plugin_data(values, tag):
  content = values[tag].metadata.plugin_data
  assert content.plugin_name == 'hparams'
  return plugin_hparams_pb2.HParamsPluginData.FromString(content.content)


def test_fields_and_figures_come_back(tmp_path):
  config = l0_mlp.get_config('smoke')
  path = hparams.write_hparams(tmp_path, config, SHEET)
  events = list(records(path.read_bytes()))
  assert events[0].file_version == 'brain.Event:2'
  values = {value.tag: value for event in events for value in event.summary.value}
  assert {tag: value.simple_value for tag, value in values.items() if tag.startswith('final')} == {
      'final/validation_error_percent': 1.5, 'final/weights_kept': 123, 'final/bytes_file': 4567}
  assert {event.step for event in events[1:]} == {7}
  session = plugin_data(values, '_hparams_/session_start_info').session_start_info.hparams
  assert session['seed'].number_value == config.seed
  assert session['optimiser.learning_rate'].number_value == config.optimiser.learning_rate
  assert session['dataset'].string_value == config.dataset
  experiment = plugin_data(values, '_hparams_/experiment').experiment
  assert [metric.name.tag for metric in experiment.metric_infos] == [
      'final/validation_error_percent', 'final/weights_kept', 'final/bytes_file']
  assert sorted(info.name for info in experiment.hparam_infos) == sorted(session)
  assert plugin_data(values, '_hparams_/session_end_info').session_end_info.status == 1  # success


def test_fields_are_plain():
  config = ml_collections.ConfigDict({'b': {'flag': True, 'none': None}, 'a': (30, 10), 'c': 1e-3})
  assert hparams.fields(config) == {'a': '[30, 10]', 'b.flag': True, 'c': 0.001}


@pytest.mark.parametrize('lost', [True, False])
def test_a_run_is_listed_once_and_its_curves_stay(tmp_path, lost):
  log = MetricsLog(tmp_path)
  log.write(1, {'loss': 0.5})
  log.close()
  first = hparams.write_hparams(tmp_path, l0_mlp.get_config(), SHEET)
  if lost:
    first.write_bytes(b'half')
  assert hparams.write_hparams(tmp_path, l0_mlp.get_config(), SHEET) == first
  events, named = sorted((tmp_path / 'tensorboard').iterdir())   # the order TensorBoard reads in
  assert named == first and len(list(records(first.read_bytes()))) == 7
  assert len(list(records(events.read_bytes()))) == 3
