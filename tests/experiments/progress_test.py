"""Plain lines where there is no terminal, a bar where there is one."""
import io

from rich.console import Console

from experiments.progress import LINES, Progress


def shown(epochs, done=0, **console):
  stream = io.StringIO()
  with Progress(Console(file=stream, width=120, **console), done, epochs) as progress:
    for epoch in range(done + 1, epochs + 1):
      numbers = {'train_nll_nats': 1 / epoch}
      if epoch % 2 == 0:
        numbers |= {'validation_error_percent': 12.5, 'density': 0.25}
      progress.show(epoch, numbers)
  return stream.getvalue()


def test_a_long_run_prints_about_twenty_lines_and_the_last_epoch():
  lines = shown(205).splitlines()
  assert LINES <= len(lines) <= LINES + 2
  assert lines[-1].startswith('epoch 205/205  NLL 0.0049') and lines[-1].endswith('0 s left')


def test_what_was_seen_last_stays_in_the_line():
  lines = shown(3).splitlines()
  assert 'error' not in lines[0]
  assert 'validation error 12.50 %  density 0.2500' in lines[1]
  assert 'validation error 12.50 %  density 0.2500' in lines[2]


def test_a_resumed_run_goes_on_counting():
  assert [line.split()[1] for line in shown(4, done=2).splitlines()] == ['3/4', '4/4']
  assert shown(4, done=4) == ''


def test_a_terminal_gets_a_bar():
  text = shown(3, force_terminal=True)
  assert '3/3' in text and 'validation error 12.50' in text
