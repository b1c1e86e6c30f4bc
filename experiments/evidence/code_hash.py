"""Which code a result comes from: a checksum over the modules that decide its numbers.

It starts from the modules of the methods and the model that a config names and from the training
loop, and follows their imports within this project. Comments, docstrings, blank lines and the
whitelists of `build.py` do not count, so that adding a method leaves the results of the others as
they are. What merely prints, plots or times is not followed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import pathlib
import tokenize
from collections.abc import Iterable, Mapping
from functools import cache
import ml_collections

from experiments import build

CORE = ('sparsejax.training.fit', 'sparsejax.training.loop', 'sparsejax.training.pieces',
        'sparsejax.training.evaluate',
        'sparsejax.compaction.compact', 'sparsejax.codec.weights_file', 'sparsejax.ledger.count',
        'experiments.choose', 'experiments.datasets.dataset')
# Of these modules only the definitions named count, and their imports are not followed; of
# experiments.schedules those of the schedules that the config names, and what these use.
PARTS: dict[str, tuple[str, ...] | None] = {           # None: the whole module
    'experiments.data': ('load',),
    'experiments.build': ('recipe', 'preprocess', 'initialiser', 'he_normal', 'symmetric_uniform',
                          'penalty_weight', 'optimiser', 'adam_clipped'),
    'experiments.optimisers': None,
    'experiments.early_stopping': None,
}
TARGET = ('sparsejax.targeted', 'experiments.targets')
SCHEDULES = 'experiments.schedules'
SCHEDULES_USE = {       # schedule: (modules, other definitions of experiments.schedules)
    'cubic_sparsity': (('sparsejax.regularisers.magnitude',), ()),
    'iterative_sparsity': (('sparsejax.regularisers.iterative_magnitude',), ('whole_steps',)),
    'piecewise_linear': ((), ()),
    'rewound': ((), ('number', 'whole_steps')),
}
PACKAGES = ('sparsejax', 'experiments')


def code_hash(config: ml_collections.ConfigDict, extra: Iterable[str] = ()) -> str:
  """Returns the SHA-256, in hex, of the code that decides what this config's run gives.

  `extra` names modules beside those of the config, such as that of another loss.
  """
  methods, schedules = _named(config)
  used = [SCHEDULES_USE.get(name, ((), ())) for name in schedules]
  modules = {build.MODELS[config.model.name].__module__, *extra,
             *(module for more, _ in used for module in more),
             *(build.METHODS[name].__module__ for name in methods),
             *(('sparsejax.packing',) if config.get('pack') else ()),
             *(TARGET if config.get('target') else ())} - PARTS.keys()
  definitions = schedules.union(*(names for _, names in used))
  parts = {**PARTS, SCHEDULES: tuple(sorted(definitions))}
  digest = hashlib.sha256()
  for module in sorted(closure((*CORE, *modules)) | parts.keys()):
    digest.update(f'{module}\n{_normal_form(module, parts.get(module))}\n'.encode())
  return digest.hexdigest()


def closure(modules: Iterable[str]) -> set[str]:
  """Returns the modules of this project that these import, directly or not, and themselves."""
  found: set[str] = set()
  waiting = list(modules)
  while waiting:
    module = waiting.pop()
    if module not in found:
      found.add(module)
      waiting += imports(module)
  return found


@cache
def imports(module: str) -> tuple[str, ...]:
  """Returns the modules of this project that the source of a module names in its imports.

  A name of the top package alone is not followed: its `__init__` lists every method.
  """
  names = []
  for node in ast.walk(ast.parse(_source(module))):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
      for alias in node.names:
        inner = f'{node.module}.{alias.name}'
        names.append(inner if _path(inner) else str(node.module))
  return tuple(sorted({name for name in names
                       if '.' in name and name.split('.')[0] in PACKAGES and _path(name)}))


def _named(config: ml_collections.ConfigDict) -> tuple[set[str], set[str]]:
  """Returns the names of every method and every schedule in a config, nested ones too."""
  methods, schedules = set(), set()

  def look(fields):
    if isinstance(fields, (Mapping, ml_collections.ConfigDict)):
      if 'method' in fields:
        methods.add(fields['method'])
      if 'schedule' in fields:
        schedules.add(fields['schedule'])
      for value in fields.values():
        look(value)
  look(config)
  return methods, schedules


@cache
def _normal_form(module: str, names: tuple[str, ...] | None) -> str:
  """Returns the source, or the definitions named, without comments, docstrings and blank lines.

  It is the same in every version of Python.
  """
  source = _source(module)
  lines = source.splitlines()
  tree = ast.parse(source)
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      row, column = token.start
      lines[row - 1] = lines[row - 1][:column]
  for node in ast.walk(tree):
    body = getattr(node, 'body', None)
    if isinstance(body, list) and body and _is_text(body[0]):
      for row in range(body[0].lineno - 1, body[0].end_lineno):
        lines[row] = ''
  kept = lines
  if names is not None:
    parts = {node.name: node for node in tree.body
             if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names}
    missing = set(names) - parts.keys()
    if missing:
      raise ValueError(f'{module} does not define {", ".join(sorted(missing))}; correct the names '
                       'in experiments/evidence/code_hash.py')
    kept = [line for node in parts.values() for line in lines[node.lineno - 1:node.end_lineno]]
  return '\n'.join(line.rstrip() for line in kept if line.strip())


def _is_text(node: ast.AST) -> bool:
  return (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
          and isinstance(node.value.value, str))


def _source(module: str) -> str:
  path = _path(module)
  if path is None:
    raise ValueError(f'{module} has no source file, so no result can be tied to its code')
  return path.read_text(encoding='utf-8')


@cache
def _path(module: str) -> pathlib.Path | None:
  try:
    spec = importlib.util.find_spec(module)
  except ModuleNotFoundError:
    return None
  return pathlib.Path(spec.origin) if spec and spec.origin else None
