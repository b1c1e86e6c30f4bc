"""What there is to run: the configs, paper by paper, told from their docstrings without a run."""

from __future__ import annotations

import ast
import os
import pathlib
import re
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from experiments.command_line import CONFIGS, config_files


class Config(NamedTuple):
  """A config file: its path, the first sentence of its docstring, {variant: what it is}."""

  path: pathlib.Path
  title: str
  variants: dict[str, str]


def configs(folder: pathlib.Path = CONFIGS) -> list[Config]:
  """Returns the config files under a folder, in the order of their paths. Nothing is imported."""
  return [read(path) for path in config_files(folder)]


def read(path: pathlib.Path) -> Config:
  """Reads one config's docstring: its first line, and the variants in the form ':name  text'."""
  docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
  title = re.split(r'\n\s*\n', docstring, maxsplit=1)[0]
  match = re.search(r'^Variants:(.*?)(?=^\w|\Z)', docstring, re.MULTILINE | re.DOTALL)
  variants = {}
  for entry in re.split(r'^\s*(?=:\w)', match.group(1) if match else '', flags=re.MULTILINE)[1:]:
    name, _, meaning = entry[1:].partition(' ')
    variants[name.strip().rstrip(',')] = ' '.join(meaning.split())
  return Config(path, ' '.join(title.split()), variants)


def show(console: Console) -> None:
  """Prints every paper with its configs and their variants."""
  paper = None
  for config in configs():
    if config.path.parent.name != paper:
      paper = config.path.parent.name
      console.print(f'\n[bold]{paper}[/bold]')
    console.print(f'  {os.path.relpath(config.path)}', highlight=False, soft_wrap=True)
    console.print(f'    {escape(config.title)}', highlight=False, soft_wrap=True)
    for name, meaning in config.variants.items():
      console.print(f'      :{escape(f"{name:12} {meaning}")}', highlight=False, soft_wrap=True)
  console.print('\nRun one:  python -m experiments.train --config=FILE[:VARIANT] --workdir=FOLDER',
                highlight=False, soft_wrap=True)
