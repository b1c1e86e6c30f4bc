"""One process of `benchmarks.data_parallel`: bound to a core, it trains when it is told to.

Its one argument is a JSON object. It writes a line when it is ready, and then, for each line it
reads, trains the same number of steps and writes the milliseconds of one.
"""

import json
import os
import sys
import time


def main(argument: str) -> None:
  options = json.loads(argument)
  os.sched_setaffinity(0, {options['core']})       # before jax, which sizes its pool by it
  import jax
  import numpy as np

  from benchmarks import cases, jax_steps
  from experiments.mesh import open_devices
  from experiments.processes import connect
  from sparsejax.training.fit import jit_epoch, start

  connect(options['coordinator'], options['processes'], options['process'], environment={})
  devices = open_devices(f'data:{options["processes"]}', options['batch_size'])
  data = cases.synthetic_data(options['batch_size'] * options['steps'])
  recipe = jax_steps.recipe(options['network'], options['method'], options['batch_size'])
  recipe = recipe._replace(mesh=devices.mesh)
  state = devices.place_state(start(recipe, jax.random.key(0), jax.numpy.asarray(data.images[:1])))
  images, labels = devices.place(data.images), devices.place(data.labels)
  run = jit_epoch(recipe)
  for _ in range(2):
    state, losses = run(state, images, labels)
  np.asarray(losses)
  print(json.dumps({'ready': len(os.sched_getaffinity(0))}), flush=True)
  for _ in sys.stdin:
    began = time.perf_counter()
    state, losses = run(state, images, labels)
    seen = np.asarray(losses)
    elapsed = time.perf_counter() - began
    assert np.all(np.isfinite(seen)), seen
    print(json.dumps({'ms': 1000 * elapsed / options['steps']}), flush=True)


if __name__ == '__main__':
  main(sys.argv[1])
