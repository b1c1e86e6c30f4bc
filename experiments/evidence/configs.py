"""Configs by name, '<paper key>/<file>:<variant>', with the seed of one run."""

from __future__ import annotations

import difflib
import importlib.util
import pathlib

import ml_collections

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'


def load_config(name: str, seed: int | None = None) -> ml_collections.ConfigDict:
  """Returns the config `name`, such as 'LoWK17/lenet_300_100:paper', with the seed given.

  Raises:
    ValueError: if there is no such file, with the nearest, or no such variant.
  """
  path, _, variant = name.partition(':')
  file = CONFIGS / f'{path}.py'
  if not file.is_file():
    known = [str(p.relative_to(CONFIGS).with_suffix('')) for p in sorted(CONFIGS.glob('*/*.py'))
             if p.name != '__init__.py']
    near = difflib.get_close_matches(path, known, n=1)
    raise ValueError(f'no config {path!r}; {f"did you mean {near[0]}? " if near else ""}configs '
                     f'are {", ".join(known)}')
  spec = importlib.util.spec_from_file_location(f'config_{path.replace("/", "_")}', file)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(variant)
  if seed is not None:
    config.seed = seed
  return config
