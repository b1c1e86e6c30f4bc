"""Containers on the command line.

  python -m sparsejax.codec write FILE.safetensors --out=FILE.sjx    from a run's file of weights
  python -m sparsejax.codec read FILE.sjx --out=FILE.safetensors     and back, bit for bit
  python -m sparsejax.codec inspect FILE.sjx                         a table, leaf by leaf
  python -m sparsejax.codec verify FILE.sjx                          decodes all of it

Exits with 1 and a line on stderr if the file is damaged or cannot be written.
"""
from __future__ import annotations

import argparse
import os
import sys

from rich.console import Console

from sparsejax.codec import container, files, inspection, leaf, weights_file

_WIDE = 160                  # characters, where the output is no terminal
_COMMANDS = {
    'write': 'a container from a file of weights',
    'read': 'a file of weights from a container; model and facts stay behind',
    'inspect': 'print shape, kept entries, bits per entry, entropy bound, bytes and codec by leaf',
    'verify': 'check the digest, decode every leaf, build the model',
}


def main(arguments: list[str] | None = None) -> int:
  """Runs one command; returns the exit status."""
  options = _parser().parse_args(arguments)
  try:
    return {'write': _write, 'read': _read, 'inspect': _inspect, 'verify': _verify}[
        options.command](options)
  except (ValueError, OSError) as error:
    print(error, file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m sparsejax.codec',
                                   description='Containers of compressed weights (.sjx).')
  commands = parser.add_subparsers(dest='command', required=True)
  for name, words in _COMMANDS.items():
    command = commands.add_parser(name, help=words, description=words)
    command.add_argument('file', metavar='FILE')
    if name in ('write', 'read'):
      command.add_argument('--out', help='the file to write; else FILE with the other extension')
    if name == 'write':
      command.add_argument('--coding', default='smallest', choices=leaf.CODINGS,
                           help='forms and coders to choose from')
  return parser


def _write(options: argparse.Namespace) -> int:
  out = options.out or _renamed(options.file, container.EXTENSION)
  if not files.is_container(out):
    raise ValueError(f'--out={out} must end in {container.EXTENSION}')
  size = container.write(out, weights_file.read(options.file), coding=options.coding,
                         provenance=weights_file.read_provenance(options.file))
  print(f'{out}: {size:,} bytes, from {os.path.getsize(options.file):,}')
  return 0


def _read(options: argparse.Namespace) -> int:
  out = options.out or _renamed(options.file, '.safetensors')
  if files.is_container(out):
    raise ValueError(f'--out={out} is the name of a container; end it in .safetensors')
  file = files.open_container(options.file)
  size = weights_file.write(out, file.weights(), **file.provenance())
  print(f'{out}: {size:,} bytes')
  return 0


def _inspect(options: argparse.Namespace) -> int:
  file = files.open_container(options.file)
  console = Console(width=None if sys.stdout.isatty() else _WIDE)
  console.print(inspection.table(file))
  for name, words in (('model', file.header['model']), ('facts', file.header['facts']),
                      ('provenance', file.provenance())):
    if words:
      console.print(f'{name}: {words}', markup=False, highlight=False)
  return 0


def _verify(options: argparse.Namespace) -> int:
  file = files.open_container(options.file)
  file.weights()
  file.facts()
  if file.header['model'] is not None:
    files.read_model(options.file)
  print(f'{options.file}: sound, {os.path.getsize(options.file):,} bytes, '
        f'{len(file.paths())} leaves')
  return 0


def _renamed(path: str, extension: str) -> str:
  return os.path.splitext(path)[0] + extension


if __name__ == '__main__':
  sys.exit(main())
