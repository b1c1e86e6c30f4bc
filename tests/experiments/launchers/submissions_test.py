"""Records of job arrays, and the ends of logs."""
import json

import pytest

from experiments.launchers import submissions


def test_arrays_are_numbered_and_read_back(tmp_path):
  assert submissions.recorded(tmp_path) == []
  first = submissions.begin(tmp_path, [['a'], ['b', 'c']])
  second = submissions.taken(submissions.begin(tmp_path, [['d']]), '23')
  assert submissions.recorded(tmp_path) == [first, second]
  assert (first.job, second.job) == ('', '23')
  assert second.log(3) == tmp_path / 'slurm' / '1' / '23_3_0_log.out'
  assert submissions.begin(tmp_path, [['e']]).folder.name == '2'


@pytest.mark.parametrize(('file', 'text'), [
    ('tasks.json', '{"tasks": [["a"]'), ('tasks.json', '{}'), ('tasks.json', '[]'),
    ('job.json', '{}'), ('job.json', json.dumps({'job': '1; rm'}))])
def test_a_damaged_record_is_named(tmp_path, file, text):
  found = submissions.begin(tmp_path, [['a']])
  (found.folder / file).write_text(text)
  with pytest.raises(ValueError, match=f'{file} is damaged'):
    submissions.recorded(tmp_path)


def test_a_folder_without_a_record_is_named(tmp_path):
  with pytest.raises(ValueError, match='holds no job array'):
    submissions.read(tmp_path)


def test_the_end_of_a_log_is_harmless_text(tmp_path):
  log = tmp_path / 'log'
  assert submissions.last_lines(log) == []
  log.write_bytes(b'x' * 100_000 + b'\n' + b'\n'.join(b'%d' % i for i in range(20))
                  + b'\n\n\x1b[31mred\xff\n')
  assert submissions.last_lines(log, 3) == ['18', '19', ' [31mred\ufffd']
