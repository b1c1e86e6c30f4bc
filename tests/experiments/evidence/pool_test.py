"""Points in processes of their own."""
import json
import os

import jax
import pytest

from experiments.evidence import pool
from experiments.evidence.point import POINT_FILE, Point, read_point

TINY = {'dataset': 'digits', 'validation_examples': 100, 'training_examples': 50, 'batch_size': 50,
        'epochs': 1, 'model.widths': (4,)}
GOOD = Point('frontier/mlp:dense', TINY, 0)
BAD = Point('frontier/mlp:dense', {**TINY, 'training_examples': 5000}, 1)


@pytest.mark.slow  # a process of its own imports JAX and compiles anew
def test_a_mistaken_point_is_told_and_the_others_are_trained(tmp_path):
  ended = {}
  tmp_path.joinpath(pool.PROGRAMS_FOLDER).mkdir()
  pool.run_points([BAD, GOOD], tmp_path, 1,
                  lambda point, content, error: ended.update({point.seed: (content, error)}))
  assert ended.keys() == {0, 1}
  content, error = ended[1]
  assert content is None and 'training_examples=5000 exceeds' in error
  content, error = ended[0]
  assert error == '' and json.loads(json.dumps(content)) == read_point(GOOD, tmp_path)
  assert (GOOD.folder(tmp_path) / POINT_FILE).exists() and content['threads'] >= 1


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='no affinity on this system')
def test_a_process_takes_its_cores_and_keeps_its_programs(monkeypatch):
  done = []

  class Slots:
    def get(self):
      return [3, 5]
  monkeypatch.setattr(os, 'sched_setaffinity', lambda pid, share: done.append((pid, share)))
  monkeypatch.setattr(jax.config, 'update', lambda name, value: done.append((name, value)))
  pool._begin(Slots(), 'a folder')
  assert done == [(0, [3, 5]), ('jax_compilation_cache_dir', 'a folder'),
                  ('jax_persistent_cache_min_compile_time_secs', 0.3)]
