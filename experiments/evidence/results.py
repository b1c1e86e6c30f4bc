"""The rows really obtained: one JSON object a line in experiments/results/<name>.jsonl.

A result is keyed by config (with every override and the seed), data and code. It is the ledger of a
finished run with the name of its config and the checksum of its code.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from experiments.scores import wrong_in_folder
from sparsejax import ledger
from sparsejax.codec.atomic import write_atomically
from sparsejax.training.metrics import read_metrics

FIRST_EPOCHS = 8        # so many that the KL's warm-up of MoAV17, from epoch 5 on, is among them
FOLDER = pathlib.Path(__file__).parents[1] / 'results'


class Result(NamedTuple):
  """One finished run.

  Attributes:
    config: as '<key>/<file>:<variant>'. code_hash: see code_hash.py. ledger: whole.
    wrong: their number, a colon, and in base64 a bit for each test example, set where it is wrong;
      '' where it is not known.
    first_nll_nats: mean training loss of each of the first epochs. attested: checksums of later
      code that repeats them, see attest.py.
  """

  config: str
  code_hash: str
  ledger: dict[str, Any]
  wrong: str = ''
  first_nll_nats: tuple[float, ...] = ()
  attested: tuple[str, ...] = ()

  @property
  def key(self) -> tuple[str, str, str]:
    return self.ledger['config_hash'], self.ledger['data_hash'], self.code_hash

  def holds_for(self, code_hash: str) -> bool:
    """Returns whether it was obtained with this code, or attested by it."""
    return code_hash == self.code_hash or code_hash in self.attested

  def wrong_examples(self) -> np.ndarray | None:
    """Returns bool (test examples,), or None if not known."""
    if not self.wrong:
      return None
    count, _, bits = self.wrong.partition(':')
    packed = np.frombuffer(base64.b64decode(bits), np.uint8)
    return np.unpackbits(packed, count=int(count)).astype(bool)


def from_folder(folder: str | os.PathLike[str], config: str, code_hash: str) -> Result:
  """Returns the result of a finished run, from its ledger and its saved logits."""
  folder = pathlib.Path(folder)
  wrong = wrong_in_folder(folder)
  return Result(config, code_hash, ledger.read(folder / 'ledger.json'),
                f'{wrong.size}:{base64.b64encode(np.packbits(wrong).tobytes()).decode()}',
                tuple(row['train_nll_nats'] for row in read_metrics(folder / 'metrics.jsonl')
                      if row['epoch'] <= FIRST_EPOCHS))


def read_results(path: pathlib.Path) -> list[Result]:
  """Returns the results of a file, or none if it does not exist.

  Raises:
    ValueError: naming the line, for one that is no result or appears twice.
  """
  if not path.exists():
    return []
  found: dict[tuple[str, str, str], Result] = {}
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    try:
      raw = json.loads(line)
      result = Result(raw['config'], raw['code_hash'], raw['ledger'],
                      raw.get('wrong', ''), tuple(raw.get('first_nll_nats', ())),
                      tuple(raw.get('attested', ())))
      ledger.validate(result.ledger)
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f'{path}, line {number} is no result: {error}; restore it from the '
                       'repository') from error
    if result.key in found:
      raise ValueError(f'{path}, line {number} repeats an earlier result; remove one')
    found[result.key] = result
  return list(found.values())


def add_results(path: pathlib.Path, new: Iterable[Result]) -> list[Result]:
  """Adds results to the file, atomically, sorted; one with the key of an old one replaces it."""
  merged = {result.key: result for result in (*read_results(path), *new)}
  rows = sorted(merged.values(), key=lambda r: (r.config, r.ledger['seed'], r.ledger['time_utc']))
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, ''.join(json.dumps(row._asdict(), sort_keys=True) + '\n'
                                 for row in rows).encode())
  return rows
