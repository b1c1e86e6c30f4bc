"""Checks, tunes and times the block-sparse kernels on a Hopper GPU. Two commands, minutes each.

  python -m benchmarks.hopper_block_sparse --stage=check_and_tune --out=out/hopper.jsonl
  python -m benchmarks.hopper_block_sparse --stage=frontier --out=out/hopper.jsonl

The first compares all three products with float64, on fresh random numbers and on memory filled
with NaN, then times tile sizes and writes the best as a table beside --out, ready to be moved to
sparsejax/kernels/block_sparse/tables. The second times the products against `jnp.dot` in the same
process, states the share of the roofline, and times whole training steps.

Rows are appended as they are obtained; what --out already holds of this commit, device and table is
not measured again, so a command that ran out of --minutes is continued by giving it once more.
--dry_run compiles everything for an H100 on any machine and measures nothing.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import json
import os
import pathlib
import sys
import time

from absl import app, flags

_STAGE = flags.DEFINE_enum('stage', None, ('check_and_tune', 'frontier'), 'What to do.',
                           required=True)
_OUT = flags.DEFINE_string('out', 'out/hopper_block_sparse.jsonl', 'File of rows, appended to.')
_MINUTES = flags.DEFINE_float('minutes', 7.5, 'Begin nothing after so many minutes.', 0.0)
_ROUNDS = flags.DEFINE_integer('samples', 9, 'Timed calls of each program.', lower_bound=6)
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Compile for an H100, here; measure nothing.')
_LIMIT = flags.DEFINE_integer('limit', 0, 'Only the first so many problems of a kind; 0: all.', 0)
_TORCH = flags.DEFINE_bool('torch_bsr', True, "Time PyTorch's BSR product, where it has CUDA.")

DRY_DEVICE = ('gpu', 'NVIDIA H100 80GB HBM3')
COMPILERS = 8


class Run:
  """A file of rows, a deadline, and what is already there.

  Args:
    setting: of every row; rows whose `commit`, `device` and `tables` agree count as done.
    path: of the file.
  """

  def __init__(self, setting, path):
    self.setting, self.path, self.start = setting, pathlib.Path(path), time.monotonic()
    self.rows = []
    if self.path.exists():
      rows = map(json.loads, self.path.read_text().splitlines())
      same = ('commit', 'device', 'tables')
      self.rows = [row for row in rows if all(row.get(k) == setting[k] for k in same)]

  def find(self, **key):
    """Returns the first row with these entries, or None."""
    return next((row for row in self.rows if all(row.get(k) == v for k, v in key.items())), None)

  def add(self, **row):
    """Appends a row and prints it."""
    from benchmarks import results
    self.rows.append(row)
    results.append(self.path, [{**self.setting, **row}])
    print(json.dumps(row), flush=True)

  def over(self):
    """True when nothing more should begin; says so once."""
    late = time.monotonic() - self.start > 60 * _MINUTES.value
    if late:
      print(f'stopped after --minutes={_MINUTES.value}; the same command goes on', flush=True)
    return late


def require_hopper() -> None:
  """Raises ValueError unless JAX runs on a GPU that the kernels are for."""
  import jax

  from sparsejax.kernels.block_sparse import hopper
  platform, kind = jax.default_backend(), jax.devices()[0].device_kind
  if platform != 'gpu' or not any(name in kind for name in hopper.HOPPER):
    raise ValueError(f'JAX runs on {platform} ({kind}) here, and these figures come from a Hopper '
                     'GPU or from nowhere: run it on one, or pass --dry_run to compile only')


def limited(items):
  """The items that --limit leaves."""
  items = list(items)
  return items[:_LIMIT.value] if _LIMIT.value else items


def check(run) -> bool:
  """Compares with float64; returns whether all agreed."""
  from benchmarks import hopper_checks
  good = True
  for spec in limited(hopper_checks.CHECKS):
    if run.find(kind='check', name=spec.name) is None:
      if run.over():
        return False
      run.add(kind='check', name=spec.name, **hopper_checks.check(spec))
    good &= run.find(kind='check', name=spec.name)['good']
  return good


def tune(run, kind) -> None:
  """Times the candidates of each product and writes the table of the best."""
  from benchmarks import hopper_cells as cells
  from sparsejax.codec.atomic import write_atomically
  from sparsejax.kernels.block_sparse import hopper
  for operation, cell in limited(cells.tuned_cells()):
    key = {'kind': 'tiles', 'operation': operation, 'block': cell.block, 'm': cell.m}
    if run.find(**key) is None:
      if run.over():
        break
      run.add(**key, **_best_tiles(operation, cell, kind))
  best = {(row['operation'], (row['block'],) * 2, row['m']): hopper.Config(**row['config'])
          for row in run.rows if row['kind'] == 'tiles'}
  path = run.path.with_name(hopper.table_name(kind))
  write_atomically(path, hopper.to_json(best, kind, run.setting).encode())
  print(f'{len(best)} choices of tiles in {path}; move it to sparsejax/kernels/block_sparse/tables')


def _best_tiles(operation, cell, kind):
  from benchmarks import hopper_cells as cells
  from benchmarks.timing import estimate
  weight = cells.weight_of(cell)
  problem = cells.problem_of(cell, weight, kind)
  configs = cells.candidates(operation, problem)
  many = _drawn(cell, weight)
  programs, failed = _compiled({str(n): cells.chained(
      cells.with_config(operation, weight, problem, config)) for n, config in enumerate(configs)},
      many)
  times = {n: estimate(t).median for n, t in cells.seconds_each(
      programs, many, _ROUNDS.value).items()}
  best = min(times, key=times.get)
  return {'config': configs[int(best)]._asdict(), 'microseconds': 1e6 * times[best],
          'default_microseconds': 1e6 * times['0'] if '0' in times else None,
          'all': [[*configs[int(n)], round(1e6 * t, 2)] for n, t in times.items()],
          'failed': [[*configs[int(n)], why] for n, why in failed.items()]}


def _drawn(cell, weight):
  import jax

  from benchmarks import hopper_cells as cells
  draw = jax.jit(lambda key: cells.operands(cell, weight, key))
  return [draw(key) for key in jax.random.split(jax.random.key(os.getpid()), cell.copies)]


def _compiled(programs, many):
  """Compiles in threads; returns ({name: program}, {name: why it did not compile})."""
  def compile_one(program):
    try:
      return program.lower(many).compile(), None
    except Exception as error:    # a compiler that gives up is one of the results
      return None, f'{type(error).__name__}: {str(error)[:300]}'
  with concurrent.futures.ThreadPoolExecutor(COMPILERS) as pool:
    found = dict(zip(programs, pool.map(compile_one, programs.values())))
  for name, (_, why) in found.items():
    if why is not None:
      print(f'{name} did not compile: {why}', flush=True)
  return ({name: program for name, (program, _) in found.items() if program is not None},
          {name: why for name, (_, why) in found.items() if why is not None})


def frontier(run) -> None:
  """Times every cell and the whole steps; goals first."""
  from benchmarks import hopper_cells as cells
  from benchmarks import hopper_limits
  limits = run.find(kind='limits')
  if limits is None:
    run.add(kind='limits', **hopper_limits.measure(_ROUNDS.value))
    limits = run.find(kind='limits')
  goals = [cell for cell in cells.CELLS if cell.goal]
  others = [cell for cell in cells.CELLS if not cell.goal]
  for cell in limited(goals):
    _frontier_cell(run, cell, limits)
  for make in limited((cells.mlp_step, cells.lstm_step)):
    _whole_step(run, make)
  for cell in limited(others):
    _frontier_cell(run, cell, limits)


def _frontier_cell(run, cell, limits):
  from benchmarks import hopper_cells as cells
  from benchmarks import hopper_limits
  from benchmarks.timing import estimate, ratio
  key = {'kind': 'product', **cell._asdict()}
  if run.find(**key) is not None or run.over():
    return
  weight = cells.weight_of(cell)
  many = _drawn(cell, weight)
  programs, failed = _compiled({name: cells.chained(function)
                                for name, function in cells.products(cell, weight).items()}, many)
  if _TORCH.value and cell.goal:
    programs |= hopper_limits.torch_bsr(cell, weight, many)
  times = cells.seconds_each(programs, many, _ROUNDS.value)
  del many
  for product, suffix in (('forward', ''), ('training', '_training')):
    dense, ours = times.get('dense' + suffix), times.get('ours' + suffix)
    if dense is None or ours is None:
      run.add(**key, product=product, failed=failed)
      continue
    flops, moved = cells.flops_and_bytes(cell, weight, product)
    floor = hopper_limits.roofline(limits, flops, moved, 3 if suffix else 1)
    gain = ratio(dense, ours)
    extra = {} if suffix or 'torch_bsr' not in times else {
        'torch_bsr_microseconds': 1e6 * estimate(times['torch_bsr']).median}
    run.add(**key, product=product, speedup=gain.median, low=gain.low, high=gain.high,
            efficiency=gain.median * cell.density, share_of_roofline=floor / estimate(ours).median,
            microseconds=1e6 * estimate(ours).median, roofline_microseconds=1e6 * floor,
            dense_microseconds=1e6 * estimate(dense).median, stored=weight.density(), **extra)


def _whole_step(run, make):
  import jax

  from benchmarks.timing import estimate, interleaved, ratio
  if run.find(kind='step', name=make.__name__) is not None or run.over():
    return
  steps = {'dense': make(False), 'sparse': make(True)}

  def several(step):
    def call():
      state = step.state
      for _ in range(10):
        state = step.run(state)
      jax.block_until_ready(state)
    return call
  samples = interleaved({name: several(step) for name, step in steps.items()}, _ROUNDS.value,
                        warmup=2)
  gain = ratio(samples['dense'], samples['sparse'])
  run.add(kind='step', name=make.__name__, speedup=gain.median, low=gain.low, high=gain.high,
          **{f'{name}_milliseconds': estimate(t).median / 10 for name, t in samples.items()})


def dry_run() -> None:
  """Compiles for an H100 all that the stage would run; raises at the first that does not."""
  import jax

  from benchmarks import hopper_cells as cells
  from benchmarks import hopper_checks
  from sparsejax.kernels.block_sparse import lowering_for
  count = 0

  def lower(name, function, *operands):
    nonlocal count
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), operands)
    with lowering_for(*DRY_DEVICE):
      text = jax.jit(function).trace(*shapes).lower(lowering_platforms=('cuda',)).as_text()
    count += 1
    print(f'{name}: {text.count("custom_call @mosaic_gpu")} kernels', flush=True)
  shapes_of = lambda cell, weight: jax.eval_shape(
      lambda key: cells.operands(cell, weight, key), jax.random.key(0))
  if _STAGE.value == 'check_and_tune':
    for spec in limited(hopper_checks.CHECKS):
      lower(f'check {spec.name}', *hopper_checks.program(spec))
    for operation, cell in limited(cells.tuned_cells()):
      weight = cells.weight_of(cell)
      problem = cells.problem_of(cell, weight, DRY_DEVICE[1])
      for config in limited(cells.candidates(operation, problem)):
        lower(f'{operation} {cell} {config}',
              cells.with_config(operation, weight, problem, config), shapes_of(cell, weight))
  else:
    for cell in limited(cells.CELLS):
      weight = cells.weight_of(cell)
      for name, function in cells.products(cell, weight).items():
        lower(f'{name} {cell}', function, shapes_of(cell, weight))
    for make in limited((cells.mlp_step, cells.lstm_step)):
      step = make(True)
      lower(f'step {step.name}', step.run, step.state)
  print(f'{count} programs compile for {DRY_DEVICE[1]}; nothing was measured')


def measure() -> None:
  """Runs the stage."""
  import jax

  from sparsejax.kernels.block_sparse import hopper
  from sparsejax.ledger.provenance import describe_run
  require_hopper()
  kind = jax.devices()[0].device_kind
  setting = {'benchmark': 'hopper_block_sparse', **describe_run(), 'rounds': _ROUNDS.value,
             'tables': bool(hopper.table_for(kind)),
             'date': datetime.date.today().isoformat()}
  run = Run(setting, _OUT.value)
  if _STAGE.value == 'frontier':
    frontier(run)
  elif check(run):
    tune(run, kind)
  elif not run.over():
    raise ValueError('a product differs from float64, see the rows of kind "check" above: nothing '
                     'was timed')


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # PyTorch needs memory beside JAX's.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  try:
    dry_run() if _DRY_RUN.value else measure()
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  app.run(main)
