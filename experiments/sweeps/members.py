"""The members of a sweep: a config each, and the name of its folder."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from experiments import workdir
from experiments.names import near
from sparsejax.codec.atomic import write_atomically

SWEEP_FILE = 'sweep.json'
LONGEST = 100             # characters of a folder's name; file systems end at 255 bytes
OWN_FIELD = 'sweep'       # a config may carry its own list of overrides


class Member(NamedTuple):
  """One run of a sweep: the name of its folder, what it overrides, and its whole config."""

  name: str
  overrides: dict[str, Any]
  config: ml_collections.ConfigDict


def base_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns a copy of the config without its own list of overrides."""
  base = config.copy_and_resolve_references()
  if OWN_FIELD in base:
    with base.unlocked():
      del base[OWN_FIELD]
  return base


def with_overrides(base: ml_collections.ConfigDict,
                   overrides: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Returns a copy of the config with these fields, {'optimiser.learning_rate': 1e-3, ...}.

  Raises:
    ValueError: for a field the config does not have, or a value of another type.
  """
  config = base.copy_and_resolve_references()
  for path, value in overrides.items():
    parent: Any = config
    *groups, last = path.split('.')
    for group in groups:
      parent = _field(parent, group, path)
    before = _field(parent, last, path)
    parent[last] = _of_type(value, before, path)
  return config


def _field(parent: Any, name: str, path: str) -> Any:
  known = list(parent) if isinstance(parent, ml_collections.ConfigDict) else []
  if name not in known:
    raise ValueError(f'sweep: the config has no field {path!r}; {near(name, known)}where it looks '
                     f'for {name!r} there are {", ".join(known) or "no fields"}')
  return parent[name]


def _of_type(value: Any, before: Any, path: str) -> Any:
  """Returns the value as the type of the one before; integers pass for real numbers."""
  if isinstance(before, ml_collections.ConfigDict):
    raise ValueError(f'sweep: {path} is a group of fields, {", ".join(before)}; vary one of them')
  if before is None:
    return value
  if isinstance(before, float) and type(value) is int:
    return float(value)
  if isinstance(before, (tuple, list)) and isinstance(value, (tuple, list)):
    return type(before)(value)
  if type(value) is not type(before):
    raise ValueError(f'sweep: {path}={value!r} is of type {type(value).__name__}, and the config '
                     f'has {type(before).__name__} there: {before!r}')
  return value


def members_of(base: ml_collections.ConfigDict, overrides: Sequence[Mapping[str, Any]],
               known: Mapping[str, Mapping[str, Any]] | None = None) -> list[Member]:
  """Returns a member for each set of overrides.

  Args:
    known: {name: overrides} of members that have a folder already. They keep their names.

  Raises:
    ValueError: as `with_overrides`, and for two members of the same config.
  """
  if not overrides:
    raise ValueError('the sweep is empty: it lists no overrides')
  names = {_key(given): name for name, given in (known or {}).items()}
  taken = set(names.values())
  short = _short_names(list(dict.fromkeys(path for given in overrides for path in given)))
  members: list[Member] = []
  seen: dict[str, Mapping[str, Any]] = {}
  for given in overrides:
    config = with_overrides(base, given)
    text = workdir.config_text(config)
    if text in seen:
      raise ValueError(f'sweep: {dict(seen[text])} and {dict(given)} give the same config; leave '
                       'one of them out')
    seen[text] = given
    name = names.get(_key(given))
    if name is None:
      name = _folder_name({short[path]: value for path, value in given.items()}, taken,
                          {path: value for path, value in given.items()})
      taken.add(name)
    members.append(Member(name, dict(given), config))
  return members


def _short_names(paths: Sequence[str]) -> dict[str, str]:
  """Returns {field: its last parts, as few as tell it from the others}."""
  parts = {path: path.split('.') for path in paths}
  short = {}
  for path, own in parts.items():
    for count in range(1, len(own) + 1):
      if sum(other[-count:] == own[-count:] for other in parts.values()) == 1:
        break
    short[path] = '.'.join(own[-count:])
  return short


def _folder_name(short: Mapping[str, Any], taken: set[str], full: Mapping[str, Any]) -> str:
  """Returns 'seed=0,strength=0.1', with more digits or whole fields where that is taken."""
  if not full:
    return 'base'
  for fields, digits in ((short, 4), (short, 17), (full, 17)):
    name = ','.join(f'{field}={_shown(value, digits)}' for field, value in fields.items())
    if len(name) > LONGEST:
      name = f'{name[:LONGEST - 9]}-{hashlib.sha256(_key(full).encode()).hexdigest()[:8]}'
    if name not in taken:
      return name
  return f'{name[:LONGEST - 9]}-{hashlib.sha256(_key(full).encode()).hexdigest()[:8]}'


def _shown(value: Any, digits: int) -> str:
  """Returns the value in characters that every file system takes."""
  if isinstance(value, float):
    return f'{value:.{digits}g}'
  if isinstance(value, (tuple, list)):
    return '-'.join(_shown(entry, digits) for entry in value)
  return re.sub(r'[^A-Za-z0-9_.+-]', '_', str(value)) or '_'


def _key(overrides: Mapping[str, Any]) -> str:
  """Returns the overrides as text; 1 and 1.0, and a tuple and a list, are the same."""
  def plain(value):
    if isinstance(value, (tuple, list)):
      return [plain(entry) for entry in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
  return json.dumps({path: plain(value) for path, value in sorted(overrides.items())})


class Record(NamedTuple):
  """What sweep.json holds: the config all members start from, and {name: overrides} of each."""

  config_name: str
  base: dict[str, Any]
  members: dict[str, dict[str, Any]]


def read_record(folder: str | pathlib.Path) -> Record | None:
  """Returns what the folder of a sweep says about it, None if it holds none.

  Raises:
    ValueError: for a file that is damaged.
  """
  path = pathlib.Path(folder) / SWEEP_FILE
  if not path.exists():
    return None
  try:
    raw = json.loads(path.read_bytes())
    return Record(str(raw['config_name']), dict(raw['base']),
                  {str(name): dict(given) for name, given in raw['members'].items()})
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path} is damaged: {type(error).__name__}: {error}; restore it from a copy, '
                     'or choose another --workdir') from error


def plan(folder: pathlib.Path, base: ml_collections.ConfigDict,
         overrides: Sequence[Mapping[str, Any]]) -> tuple[list[Member], list[Member]]:
  """Returns (the members of a sweep in this folder, all that it will then have).

  A sweep that was here before is added to: its members keep their folders, whether the new one
  names them or not.

  Raises:
    ValueError: as `members_of`, and if the sweep that was here starts from another config; the
      message shows the difference.
  """
  before = read_record(folder)
  if before is None:
    members = members_of(base, overrides)
    return members, members
  now = json.loads(workdir.config_text(base))
  if before.base != now:
    raise ValueError(f'workdir {folder} holds a sweep of another config; use another --workdir, or '
                     f'its own config. Difference:\n{workdir.difference(before.base, now)}')
  members = members_of(base, overrides, before.members)
  everyone = {member.name: member for member in (*recorded_members(folder), *members)}
  return members, list(everyone.values())


def write_record(folder: pathlib.Path, config_name: str, base: ml_collections.ConfigDict,
                 everyone: Sequence[Member]) -> None:
  """Says in the folder of a sweep which members it has."""
  raw = Record(config_name, base.to_dict(), {member.name: member.overrides for member in everyone})
  text = json.dumps(raw._asdict(), indent=1) + '\n'
  write_atomically(folder / SWEEP_FILE, text.encode())


def recorded_members(folder: pathlib.Path) -> list[Member]:
  """Returns all members of the sweep in this folder.

  Raises:
    ValueError: if there is none.
  """
  found = read_record(folder)
  if found is None:
    raise ValueError(f'{folder} holds no sweep (no {SWEEP_FILE}); give the --workdir of one')
  base = ml_collections.ConfigDict(_tuples(found.base))
  return members_of(base, [_tuples(given) for given in found.members.values()], found.members)


def _tuples(value: Any) -> Any:
  """Returns JSON's lists as tuples, which configs hold."""
  if isinstance(value, dict):
    return {key: _tuples(entry) for key, entry in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
