"""The grammar of --sweep: fields of a config and the values they take.

  seed=0..7; regulariser.gates.strength=logspace(-2, 1, 8)

  sweep   = axis {';' axis}                  every combination, the last axis fastest
  axis    = field {',' field} '=' list {',' list}      as many lists as fields, read side by side
  list    = '[' value {',' value} ']' | integer '..' integer | function | value
  function = 'linspace(first, last, count)' | 'logspace(first, last, count)', exponents of 10
  value   = number | 'text' | word | true | false | none | '(' value {',' value} ')'

So `optimiser.learning_rate, seed = [1e-3, 1e-2], 0..1` has two members, not four. Nothing is ever
evaluated as code.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, NamedTuple

import numpy as np

MOST = 10_000            # values of one list; more is a slip of the pen
FUNCTIONS = ('linspace', 'logspace')
WORDS = {'true': True, 'false': False, 'none': None}
KINDS = {
    'number': r'[+-]?(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][+-]?\d+)?',
    'word': r'[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*',
    'string': r"'[^']*'" + r'|"[^"]*"',
    'mark': r'\.\.|[=;,()\[\]]',
}
TOKEN = re.compile('|'.join(f'(?P<{kind}>{pattern})' for kind, pattern in KINDS.items()))


class SweepError(ValueError):
  """A sweep that cannot be read; the message shows the place."""

  def __init__(self, text: str, position: int, what: str):
    super().__init__(f'sweep, column {position + 1}: {what}\n  {text}\n  {" " * position}^')


class Token(NamedTuple):
  """`kind` is one of KINDS, or 'end'."""

  kind: str
  text: str
  position: int


class Axis(NamedTuple):
  """Fields that vary together: `values` are tuples, one value for each of the `fields`."""

  fields: tuple[str, ...]
  values: tuple[tuple[Any, ...], ...]


def overrides(text: str) -> list[dict[str, Any]]:
  """Returns the overrides {field: value} of every member, the last axis changing fastest.

  Raises:
    SweepError: where the text is not of the grammar, names a field twice, or lists a value twice.
  """
  axes = parse(text)
  return [{field: value for axis, values in zip(axes, chosen, strict=True)
           for field, value in zip(axis.fields, values, strict=True)}
          for chosen in itertools.product(*(axis.values for axis in axes))]


def parse(text: str) -> list[Axis]:
  """Returns the axes of a sweep, in the order they are written."""
  return _Parser(' '.join(text.split()) if '\n' in text else text).sweep()


def tokens(text: str) -> list[Token]:
  """Returns the tokens of a sweep, one 'end' last."""
  found: list[Token] = []
  position = 0
  while True:
    while position < len(text) and text[position].isspace():
      position += 1
    if position == len(text):
      return [*found, Token('end', '', position)]
    match = TOKEN.match(text, position)
    if match is None:
      quote = text[position] in '\'"'
      raise SweepError(text, position, 'this text has no closing quote' if quote else
                       f'{text[position]!r} has no meaning here')
    found.append(Token(str(match.lastgroup), match.group(), position))
    position = match.end()


class _Parser:
  """Reads one sweep from left to right."""

  def __init__(self, text: str):
    self._text = text
    self._tokens = tokens(text)
    self._index = 0

  @property
  def _next(self) -> Token:
    return self._tokens[self._index]

  def _take(self) -> Token:
    token = self._next
    self._index += token.kind != 'end'
    return token

  def _accept(self, mark: str) -> bool:
    if self._next.kind == 'mark' and self._next.text == mark:
      self._index += 1
      return True
    return False

  def _require(self, mark: str) -> None:
    if not self._accept(mark):
      raise self._wrong(f'expected {mark!r}')

  def _wrong(self, what: str, token: Token | None = None) -> SweepError:
    token = token or self._next
    seen = f', found {token.text!r}' if token.kind != 'end' else ', found the end'
    return SweepError(self._text, token.position, what + seen)

  def sweep(self) -> list[Axis]:
    axes: list[Axis] = []
    while True:
      axes.append(self._axis({field for axis in axes for field in axis.fields}))
      if not self._accept(';') or self._next.kind == 'end':      # a last ';' does no harm
        break
    if self._next.kind != 'end':
      raise self._wrong("expected ';' and another field, or the end")
    return axes

  def _axis(self, known: set[str]) -> Axis:
    fields = []
    while True:
      token = self._take()
      if token.kind != 'word':
        raise self._wrong('expected a field of the config, such as seed', token)
      name = token.text.removeprefix('config.')
      if name in known:
        raise SweepError(self._text, token.position, f'{name} has values already')
      known.add(name)
      fields.append(name)
      if not self._accept(','):
        break
    self._require('=')
    lists = []
    for index, field in enumerate(fields):
      if index:
        self._require(',')
      start = self._next
      lists.append(self._list())
      if len(lists[-1]) != len(lists[0]):
        raise SweepError(self._text, start.position, f'{field} has {len(lists[-1])} values and '
                         f'{fields[0]} has {len(lists[0])}; fields joined by commas are read side '
                         'by side')
    values = tuple(zip(*lists, strict=True))
    if len(set(map(repr, values))) < len(values):
      twice = next(value for value in values if values.count(value) > 1)
      raise SweepError(self._text, start.position, f'the value {", ".join(map(str, twice))} is '
                       'there twice')
    return Axis(tuple(fields), values)

  def _list(self) -> list[Any]:
    token = self._next
    if self._accept('['):
      found = self._values(']')
      if not found:
        raise SweepError(self._text, token.position, 'a list needs at least one value')
      return found
    if token.kind == 'word' and self._tokens[self._index + 1].text == '(':
      return self._function()
    value = self._value()
    if not self._accept('..'):
      return [value]
    end = self._next
    last = self._value()
    for number, place in ((value, token), (last, end)):
      if type(number) is not int:
        raise SweepError(self._text, place.position, f'a range a..b is of integers, not {number!r};'
                         ' linspace(first, last, count) is of real numbers')
    self._require_count(last - value + 1, token)
    return list(range(value, last + 1))

  def _require_count(self, count: int, token: Token) -> None:
    if not 1 <= count <= MOST:
      raise SweepError(self._text, token.position, f'this has {max(0, count)} values; it needs 1 '
                       f'to {MOST}')

  def _values(self, end: str) -> list[Any]:
    found: list[Any] = []
    while not self._accept(end):
      found.append(self._value())
      if not self._accept(','):
        self._require(end)
        break
    return found

  def _function(self) -> list[float]:
    token = self._take()
    if token.text not in FUNCTIONS:
      raise SweepError(self._text, token.position, f'{token.text!r} is no function; there are '
                       f'{" and ".join(FUNCTIONS)}')
    self._require('(')
    arguments = self._values(')')
    numbers = all(isinstance(a, (int, float)) and not isinstance(a, bool) for a in arguments)
    if len(arguments) != 3 or not numbers or type(arguments[2]) is not int:
      raise SweepError(self._text, token.position, f'{token.text}(first, last, count) takes two '
                       'numbers and how many, an integer')
    first, last, count = arguments
    self._require_count(count, token)
    points = np.linspace(first, last, count)
    if token.text == 'linspace':
      return [float(f'{point:.12g}') for point in points]
    try:
      # Twelve digits, for the last ones of a power differ from one C library to the next.
      return [float(f'{10.0 ** float(point):.12g}') for point in points]
    except OverflowError as error:
      raise SweepError(self._text, token.position, f'10 to the {last} is no number here; the '
                       'limits of logspace are exponents of 10') from error

  def _value(self) -> Any:
    token = self._take()
    if token.kind == 'number':
      integer = re.fullmatch(r'[+-]?\d+', token.text)
      return int(token.text) if integer else float(token.text)
    if token.kind == 'string':
      return token.text[1:-1]
    if token.kind == 'word':
      return WORDS.get(token.text, token.text)
    if token == ('mark', '(', token.position):
      return tuple(self._values(')'))
    raise self._wrong('expected a value', token)
