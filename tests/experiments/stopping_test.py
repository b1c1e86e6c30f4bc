"""Signals at once, and signals that wait."""
import os
import signal
import threading

import pytest

from experiments.stopping import Stopped, StopSignals


def send(number=signal.SIGTERM):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_at_once_where_nothing_waits(number, code):
  before = signal.getsignal(number)
  with pytest.raises(Stopped, match=f'stopped by {number.name}; .* same command goes on') as end:
    with StopSignals().listening():
      send(number)
  assert end.value.exit_code == code and not isinstance(end.value, Exception)
  assert signal.getsignal(number) is before


def test_a_signal_waits_and_is_asked_for():
  stop = StopSignals()
  with pytest.raises(Stopped, match='SIGTERM; it is all here'):
    with stop.listening(), stop.waiting():
      assert not stop.asked and stop.number == 0
      send()
      assert stop.asked and stop.number == 15
      stop.stop('it is all here')


def test_what_nobody_asked_for_stops_at_the_end_of_the_waiting():
  stop = StopSignals()
  with pytest.raises(Stopped), stop.listening():
    with stop.waiting():
      send()
      seen = stop.asked
  assert seen


def test_a_stop_that_was_swallowed_comes_back():
  stop = StopSignals()
  with stop.listening():
    try:
      send()
    except BaseException:
      pass
    with pytest.raises(Stopped):
      with stop.waiting():
        pytest.fail('it went on')


def test_a_scheduler_may_send_a_signal_twice_and_others():
  stop = StopSignals((signal.SIGTERM, signal.SIGUSR2), again=False)
  with pytest.raises(Stopped, match='SIGTERM; it is all here'), stop.listening():
    with stop.waiting():
      send(signal.SIGUSR2)
      send()
      send()
      stop.stop('it is all here')
  stop = StopSignals((signal.SIGTERM, signal.SIGUSR2), again=False)
  with stop.listening():
    with pytest.raises(Stopped, match='SIGUSR2'):
      send(signal.SIGUSR2)
    send()                                     # while what was raised is on its way: no second one
    assert stop.number == signal.SIGTERM
  assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_a_second_signal_has_its_usual_effect():
  stop = StopSignals()
  with pytest.raises(KeyboardInterrupt), stop.listening(), stop.waiting():
    send(signal.SIGINT)
    send(signal.SIGINT)


def test_an_error_while_a_signal_waits_is_the_error():
  stop = StopSignals()
  with pytest.raises(ValueError, match='first'), stop.listening(), stop.waiting():
    send()
    raise ValueError('first')


def test_threads_listen_to_nothing():
  before, found = signal.getsignal(signal.SIGTERM), []

  def listen():
    with StopSignals().listening():
      found.append(signal.getsignal(signal.SIGTERM))

  thread = threading.Thread(target=listen)
  thread.start()
  thread.join()
  assert found == [before]


def test_another_process_may_have_been_asked():
  stop = StopSignals()
  stop.ask(0)
  assert not stop.asked
  stop.ask(2)
  stop.ask(0)
  assert stop.number == 2
