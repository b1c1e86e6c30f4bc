"""Being asked to stop: SIGTERM of a scheduler, SIGINT of a keyboard.

While a run trains, the question waits for the next point at which its state can be kept, within
seconds; at any other time it stops the run at once, since every file is written atomically.
Members of a sweep that are trained together keep their states at the end of an epoch alone, so they
stop after the one that runs.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)
KEPT_BEFORE = 'what was finished before is kept'


class Stopped(BaseException):
  """The run was asked to stop, and has: no error, and none who handle errors shall keep it.

  Attributes:
    exit_code: 128 + number of the signal, as shells have it: 143 for SIGTERM, 130 for SIGINT.
  """

  def __init__(self, number: int, kept: str):
    super().__init__(f'stopped by {signal.Signals(number).name}; {kept}. The same command goes on '
                     'from there')
    self.exit_code = 128 + number


class StopSignals:
  """What has been asked since `listening` began. Elsewhere, and in threads, nobody asks.

  Args:
    signals: that ask.
    again: whether a second signal of a kind has its usual effect, as who sits at a keyboard wants.
      A scheduler may send one twice, and SIGKILL when it has waited long enough.
  """

  def __init__(self, signals: Sequence[int] = SIGNALS, again: bool = True) -> None:
    self._signals, self._again = tuple(signals), again
    self._before: dict[int, Any] = {}
    self._asked: int | None = None
    self._patient = False

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Takes the signals, and gives them back."""
    if threading.current_thread() is not threading.main_thread():
      yield                                   # only the main thread is sent signals
      return
    self._before = {number: signal.signal(number, self._ask) for number in self._signals}
    try:
      yield
    finally:
      for number, handler in self._before.items():
        signal.signal(number, handler)

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Within, signals wait to be asked for; one that nobody asked for stops the run at the end."""
    if self.asked:                      # where Stopped was raised, somebody has swallowed it
      self.stop(KEPT_BEFORE)
    self._patient = True
    try:
      yield
    finally:
      self._patient = False
    if self.asked:
      self.stop(KEPT_BEFORE)

  @property
  def asked(self) -> bool:
    """True once a signal waits."""
    return self._asked is not None

  @property
  def number(self) -> int:
    """The last signal that asked, or 0."""
    return self._asked or 0

  def ask(self, number: int) -> None:
    """Takes note of a signal that another process was sent; 0 for none."""
    self._asked = number or self._asked

  def stop(self, kept: str) -> NoReturn:
    """Raises Stopped for the signal that waits; `kept` says what was kept."""
    assert self._asked is not None
    raise Stopped(self._asked, kept)

  def _ask(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self._again:
      signal.signal(number, self._before[number])
    told = self.asked and not self._again
    self._asked = number
    if not self._patient and not told:
      raise Stopped(number, KEPT_BEFORE)
