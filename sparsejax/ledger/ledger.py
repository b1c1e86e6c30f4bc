"""A ledger: a dict of the keys in `schema.KEYS`, checked, written and read as JSON."""
from __future__ import annotations

import difflib
import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from sparsejax.codec.atomic import write_atomically
from sparsejax.ledger.schema import KEYS, LAYER_KEYS, LEDGER_VERSION, PACKED_KEYS, Key

ROUNDING = 4 * sys.float_info.epsilon   # of a float64 division and of the product that undoes it
MEDIANS = tuple(key for key in KEYS if key.startswith('ms_') and f'{key}_upper_quartile' in KEYS)
RATIOS = {      # ratio: (numerator, denominator)
    'compression_weights': ('weights_total', 'weights_kept'),
    'compression_structure': ('structure_total', 'structure_kept'),
    'compression_parameters': ('parameters_dense', 'parameters_compact'),
    'compression_bytes': ('bytes_float32', 'bytes_file'),
    'compression_zstd': ('bytes_float32', 'bytes_zstd'),
    'compression_coded': ('bytes_float32', 'bytes_coded'),
}


def assemble(*parts: Mapping[str, Any]) -> dict[str, Any]:
  """Merges `parts` (of `describe_run`, `measure`, the trainer ...) into a checked ledger.

  `ledger_version` is filled in, and keys are put in the order of `KEYS`.
  Raises: ValueError if two parts hold the same key, or `validate` refuses.
  """
  merged: dict[str, Any] = {'ledger_version': LEDGER_VERSION}
  for part in parts:
    twice = sorted(merged.keys() & part.keys())
    if twice:
      raise ValueError(f'ledger key {", ".join(twice)} comes from two parts; give it once')
    merged |= part
  validate(merged)
  return {key: merged[key] for key in KEYS if key in merged}


def validate(ledger: Mapping[str, Any]) -> None:
  """Raises ValueError listing every key that is wrong, each with the repair.

  Wrong is: missing, unknown, of another type, not finite, or at odds with the other keys.
  """
  problems = _key_problems(ledger, KEYS, '')
  for name, keys in (('layers', LAYER_KEYS), ('packed_layers', PACKED_KEYS)):
    rows = ledger.get(name)
    for number, row in enumerate(rows if isinstance(rows, list) else ()):
      if isinstance(row, dict):
        problems += _key_problems(row, keys, f'{name}[{number}].')
  if not problems:
    problems = _contradictions(ledger)
  if problems:
    raise ValueError('ledger: ' + '; '.join(problems))


def write(path: str | os.PathLike[str], ledger: Mapping[str, Any]) -> int:
  """Validates `ledger` and writes it as JSON, atomically; returns the bytes written."""
  validate(ledger)
  text = json.dumps({key: ledger[key] for key in KEYS if key in ledger}, indent=1, allow_nan=False)
  return write_atomically(path, text.encode() + b'\n')


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads and validates a ledger.

  Raises: ValueError, naming the file, if it is no JSON object, holds a key twice, has another
    version, or does not validate; FileNotFoundError if there is no such file.
  """
  with open(path, 'rb') as file:
    data = file.read()
  name = os.fspath(path)
  try:
    ledger = json.loads(data, object_pairs_hook=_unique_keys)
  except ValueError as error:            # JSONDecodeError and UnicodeDecodeError are ValueErrors
    raise ValueError(f'{name} is damaged: {error}; write the ledger again') from error
  if not isinstance(ledger, dict):
    raise ValueError(f'{name} holds a JSON {type(ledger).__name__}; a ledger is one JSON object')
  version = ledger.get('ledger_version')
  if version != LEDGER_VERSION:
    raise ValueError(f'{name} has ledger_version {version!r}; this sparsejax reads version '
                     f'{LEDGER_VERSION}; read it with the release that wrote it')
  try:
    validate(ledger)
  except ValueError as error:
    raise ValueError(f'{name}: {error}') from error
  return ledger


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  keys = [key for key, _ in pairs]
  if len(set(keys)) < len(keys):
    twice = sorted({key for key in keys if keys.count(key) > 1})
    raise ValueError(f'key {", ".join(twice)} stands twice')
  return dict(pairs)


def _key_problems(values: Mapping[str, Any], keys: Mapping[str, Key], where: str) -> list[str]:
  problems = [f'{where}{key} is missing; add it: {keys[key].meaning}'
              for key in keys if key not in values and not keys[key].added]
  for key, value in values.items():
    if key not in keys:
      close = difflib.get_close_matches(str(key), keys, n=1)
      problems.append(f'{where}{key} is unknown; ' + (f'did you mean {close[0]}?' if close else
                                                      'remove it'))
    else:
      problem = _type_problem(value, keys[key])
      problems += [f'{where}{key} {problem} ({keys[key].meaning})'] if problem else []
  return problems


def _type_problem(value: Any, key: Key) -> str | None:
  kind = key.type
  if value is None and key.optional:
    return None
  if isinstance(kind, tuple):
    if not isinstance(value, list):
      return f'is a {type(value).__name__}; give a list of {kind[1].__name__}'
    wrong = [item for item in value if type(item) is not kind[1]]
    return f'holds {wrong[0]!r}; give {kind[1].__name__} items only' if wrong else None
  allowed = (int, float) if kind is float else (kind,)
  if type(value) not in allowed:         # exact: True is no int here, and a NumPy number no JSON
    return f'is a {type(value).__name__}, {value!r}; give {kind.__name__}(...)'
  if isinstance(value, float) and not math.isfinite(value):
    return f'is {value}; give a finite number: a run that diverged has no ledger'
  return None


def _contradictions(ledger: Mapping[str, Any]) -> list[str]:
  """What cannot be true together, in a ledger whose keys and types are right."""
  problems = []
  if ledger['ledger_version'] != LEDGER_VERSION:
    problems.append(f'ledger_version is {ledger["ledger_version"]}; give {LEDGER_VERSION}')
  if ledger['deployed_parameters'] not in ('raw', 'ema'):
    problems.append(f'deployed_parameters is {ledger["deployed_parameters"]!r}; '
                    "give 'raw' or 'ema'")
  problems += [f'simulated names {key!r}, which is no ledger key; give names out of KEYS'
               for key in ledger['simulated'] if key not in KEYS]
  bits = ledger.get('test_bits_per_token')
  if bits is not None and not math.isclose(bits * math.log(2), ledger['test_nll_nats'],
                                           rel_tol=ROUNDING):
    problems.append(f'test_bits_per_token is {bits} but test_nll_nats is '
                    f'{ledger["test_nll_nats"]}; give test_nll_nats / ln 2')
  perplexity = ledger.get('test_perplexity')
  if perplexity is not None and not math.isclose(math.log(perplexity), ledger['test_nll_nats'],
                                                 rel_tol=ROUNDING, abs_tol=ROUNDING):
    problems.append(f'test_perplexity is {perplexity} but test_nll_nats is '
                    f'{ledger["test_nll_nats"]}; give exp(test_nll_nats)')
  for ratio, (above, below) in RATIOS.items():
    if ratio in ledger and not math.isclose(ledger[ratio] * ledger[below], ledger[above],
                                            rel_tol=ROUNDING):
      problems.append(f'{ratio} is {ledger[ratio]} but {above} / {below} is {ledger[above]} / '
                      f'{ledger[below]}; give their quotient')
  for key in ('weights_total', 'weights_kept'):
    total = sum(row[key] for row in ledger['layers'])
    if total != ledger[key]:
      problems.append(f'{key} is {ledger[key]} but its layers sum to {total}; count them again')
  for key in MEDIANS:
    if key not in ledger:
      continue
    lower, median, upper = (ledger[key + end] for end in ('_lower_quartile', '', '_upper_quartile'))
    if not 0 <= lower <= median <= upper:
      problems.append(f'{key} and its quartiles are out of order: {lower}, {median}, {upper}')
  return problems
