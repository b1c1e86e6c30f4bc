"""Runs controls and sets each beside the network it is a control of, example by example."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from rich.console import Console

from experiments.evidence import pool
from experiments.evidence.control_point import ControlPoint, Teacher
from experiments.evidence.against_dense import MARGIN_PERCENT
from experiments.evidence.controls import ALL, Settings, control_config
from experiments.evidence.point import (POINT_FILE, deployed_file, predictor, read_point,
                                        wrong_on_test)
from experiments.evidence.subject import Subject, image_shape
from experiments.names import known_name
from sparsejax import codec
from sparsejax.post_training import int8
from sparsejax.statistics.paired import difference_interval, mcnemar, non_inferior

NEEDS_DENSE = ('distil', 'int8_zstd')


class Outcome(NamedTuple):
  """A control beside the network under test, on the same test examples.

  Attributes:
    subject, control: names; '' for the network under test itself. seed: of both.
    epochs: trained. weights: non-zero kernel entries. bytes_file: of its file.
    test_error_percent: of it. difference, low, high: its error minus the subject's in points, with
      the paired 95 % interval. p_value: McNemar's. not_worse: whether the subject is not worse than
      it by more than MARGIN_PERCENT, at one-sided 95 %. note: what a reader must know.
  """

  subject: str
  control: str
  seed: int
  epochs: int
  weights: int
  bytes_file: int
  test_error_percent: float
  difference: float = 0.0
  low: float = 0.0
  high: float = 0.0
  p_value: float = 1.0
  not_worse: bool = True
  note: str = ''


def run_controls(subjects: Sequence[Subject], controls: Sequence[str], settings: Settings,
                 root: pathlib.Path, workers: int, console: Console,
                 run: bool = True) -> list[Outcome]:
  """Trains the controls that are missing under root/controls, and returns every outcome.

  Raises:
    ValueError: for an unknown control; for a control of the compact architecture of a single
      subject that was not compacted (among several subjects it is left out, and said so).
  """
  for control in controls:
    known_name(control, ALL, 'control')
  wanted: list[tuple[Subject, str, ControlPoint]] = []
  big: dict[str, ControlPoint] = {}
  for subject in subjects:
    big[_id(subject)] = _point('dense', subject, settings)
    for control in controls:
      if control in ('scratch', 'distil') and not subject.facts.compacted and len(subjects) > 1:
        console.print(f'{subject.name}, seed {subject.config.seed}: not compacted, so without the '
                      f'control {control!r}')
        continue
      base = 'dense' if control == 'int8_zstd' else control
      wanted.append((subject, control, _point(base, subject, settings)))
  if run:
    teachers = [big[_id(s)] for s, control, _ in wanted if control in NEEDS_DENSE]
    _run_missing(teachers, root, workers, console)
    _run_missing([point for _, _, point in wanted], root, workers, console)
  outcomes = [_own(subject) for subject in subjects]
  for subject, control, point in wanted:
    content = read_point(point, root)
    if content is None or content['error']:
      console.print(f'{subject.name}: the control {control!r} has no result'
                    + (f': {content["error"]}' if content else ''))
      continue
    outcomes.append(_outcome(subject, control, point, content, settings, root))
  return outcomes


def _point(control: str, subject: Subject, settings: Settings) -> ControlPoint:
  config = control_config(control, subject.config, subject.facts, settings,
                          image_shape(subject.config))
  teacher = None
  if control == 'distil':
    teacher = Teacher(_point('dense', subject, settings), settings.temperature,
                      settings.hard_weight)
  return ControlPoint(f'control:{control}', config.to_json(), config.seed, teacher)


def _run_missing(points: Sequence[ControlPoint], root: pathlib.Path, workers: int,
                 console: Console) -> None:
  folders = {point.folder(root): point for point in points}
  missing = {folder: point for folder, point in folders.items()
             if not (folder / POINT_FILE).exists()}
  if not missing:
    return
  console.print(f'{len(missing)} trainings of controls are missing')
  root.mkdir(parents=True, exist_ok=True)
  done = 0

  def report(point: Any, content: dict[str, Any] | None, error: str) -> None:
    nonlocal done
    done += 1
    epochs = content and f'{content["epochs"]} epochs in {content["seconds"]:.0f} s'
    console.print(f'{done} of {len(missing)}: {point.config}, seed {point.seed}, '
                  f'{error or content and content["error"] or epochs}')
  pool.run_points(list(missing.values()), root, min(workers, len(missing)), report)


def _own(subject: Subject) -> Outcome:
  return Outcome(subject.name, '', subject.config.seed, subject.config.epochs,
                 subject.facts.weights_kept, subject.facts.bytes_file,
                 100 * float(subject.wrong.mean()))


def _outcome(subject: Subject, control: str, point: ControlPoint, content: dict[str, Any],
             settings: Settings, root: pathlib.Path) -> Outcome:
  network = content['networks'][0]
  note, kept, written = '', network['weights_kept'], network['bytes_file']
  if control == 'int8_zstd':
    wrong, written = _int8(point.built(), codec.read(point.folder(root) / deployed_file(0)))
  else:
    wrong = wrong_on_test(point, root, 0)
  if control in ('scratch', 'distil') and subject.facts.flops_ratio > settings.max_epochs_factor:
    note = (f'{settings.max_epochs_factor:g} times the epochs, not the '
            f'{subject.facts.flops_ratio:.0f} of equal compute')
  found = difference_interval(wrong, subject.wrong, seed=0)
  return Outcome(
      subject.name, control, point.seed, content['epochs'], kept, written,
      100 * float(wrong.mean()), found.percent, found.low, found.high,
      mcnemar(~wrong, ~subject.wrong).p_value,
      non_inferior(subject.wrong, wrong, MARGIN_PERCENT).holds, note)


def _int8(config: ml_collections.ConfigDict, variables: dict[str, Any]) -> tuple[np.ndarray, int]:
  """Returns (wrong test examples, bytes) of a dense network in int8, read back from its bytes."""
  predict, test_images, test_labels = predictor(config)
  packed = int8.compress(int8.quantise(variables['params']))
  restored = {**variables, 'params': int8.dequantise(int8.decompress(packed))}
  return np.asarray(predict(restored, test_images)).argmax(1) != test_labels, len(packed)


def _id(subject: Subject) -> str:
  return f'{subject.name} {subject.config.seed}'
