"""Runs controls and sets each beside the network it is a control of, example by example."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from rich.console import Console

from experiments.evidence import pool
from experiments.evidence.control_point import ControlPoint, Teacher
from experiments.evidence.against_dense import MARGIN_PERCENT
from experiments.evidence.controls import ALL, COMPACT, Settings, control_config, why_not
from experiments.evidence.label_scores import LabelScores, scorer
from experiments.evidence.point import POINT_FILE, deployed_file, read_point, scores_on_test
from experiments.evidence.subject import Subject, examples_of
from experiments.names import known_name
from sparsejax import codec
from sparsejax.post_training import int8
from sparsejax.statistics.intervals import mean_interval
from sparsejax.statistics.paired import difference_interval, mcnemar, non_inferior

NEEDS_DENSE = ('distil', 'int8_zstd')


class Outcome(NamedTuple):
  """A control beside the network under test, on the same test labels.

  Attributes:
    subject, control: names; '' for the network under test itself. seed: of both.
    epochs: trained. weights: non-zero kernel entries. bytes_file: of its file.
    test_error_percent: of it. difference, low, high: its error minus the subject's in points, with
      the paired 95 % interval. p_value: McNemar's. not_worse: whether the subject is not worse than
      it by more than MARGIN_PERCENT, at one-sided 95 %. note: what a reader must know.
    bits_per_token: of a language model, mean over the test text; None for a classifier.
    bits_difference, bits_low, bits_high: its bits minus the subject's, with the 95 % interval
      (Student t over the windows of the text).
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
  bits_per_token: float | None = None
  bits_difference: float = 0.0
  bits_low: float = 0.0
  bits_high: float = 0.0


def run_controls(subjects: Sequence[Subject], controls: Sequence[str], settings: Settings,
                 root: pathlib.Path, workers: int, console: Console,
                 run: bool = True) -> list[Outcome]:
  """Trains the controls that are missing under root/controls, and returns every outcome.

  Raises:
    ValueError: for an unknown control; for a control that a single subject has not, such as that
      of the compact architecture where nothing was compacted (among several subjects it is left
      out, and said so).
  """
  for control in controls:
    known_name(control, ALL, 'control')
  wanted: list[tuple[Subject, str, ControlPoint]] = []
  big: dict[str, ControlPoint] = {}
  for subject in subjects:
    big[_id(subject)] = _point('dense', subject, settings)
    for control in controls:
      reason = why_not(control, subject.config, subject.facts)
      if reason and len(subjects) > 1:
        console.print(f'{subject.name}, seed {subject.config.seed}: without the control '
                      f'{control!r}, which {reason}')
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
                          examples_of(subject.config))
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
  own = Outcome(subject.name, '', subject.config.seed, subject.config.epochs,
                subject.facts.weights_kept, subject.facts.bytes_file,
                100 * float(subject.wrong.mean()))
  return own if subject.nll_nats is None else own._replace(
      bits_per_token=float(subject.nll_nats.mean(dtype=np.float64)) / math.log(2))


def _outcome(subject: Subject, control: str, point: ControlPoint, content: dict[str, Any],
             settings: Settings, root: pathlib.Path) -> Outcome:
  network = content['networks'][0]
  kept, written = network['weights_kept'], network['bytes_file']
  if control == 'int8_zstd':
    scores, written = _int8(point.built(), codec.read(point.folder(root) / deployed_file(0)))
  else:
    scores = scores_on_test(point, root, 0)
  found = difference_interval(scores.wrong, subject.wrong, seed=0)
  return Outcome(
      subject.name, control, point.seed, content['epochs'], kept, written,
      100 * float(scores.wrong.mean()), found.percent, found.low, found.high,
      mcnemar(~scores.wrong, ~subject.wrong).p_value,
      non_inferior(subject.wrong, scores.wrong, MARGIN_PERCENT).holds,
      '; '.join(_notes(subject, control, point, content, settings)), *_bits(scores, subject))


def _notes(subject: Subject, control: str, point: ControlPoint, content: dict[str, Any],
           settings: Settings) -> Iterator[str]:
  ratio, limit = subject.facts.flops_ratio, settings.max_epochs_factor
  if control in COMPACT and ratio > limit:
    equal = f'{ratio:.0f}' if ratio >= 10 else f'{ratio:.2g}'
    yield f'{limit:g} times the epochs, not the {equal} of equal compute'
  if content.get('best_epoch'):
    yield f'epoch {content["best_epoch"]} is deployed, the best on held-out data'
  if control == 'rewind' and content['epochs'] > subject.config.epochs:
    yield f'{content["epochs"]} epochs, for a round has at least one'
  if control == 'dense_small':
    model = point.built().model
    if 'embedding' in model and model.embedding is not None:
      words = f'all {model.vocabulary:,} tokens'
      if model.get('kept_tokens'):
        words = f'the {len(model.kept_tokens):,} most frequent of {model.vocabulary:,} tokens'
      yield f'widths {", ".join(map(str, model.widths))}, embedding {model.embedding}, {words}'
    if content['networks'][0]['bytes_dense'] > subject.facts.bytes_file:
      yield 'no dense network of this kind has as few bytes'


def _bits(scores: LabelScores, subject: Subject) -> tuple[float, float, float, float] | tuple[()]:
  """The fields of `Outcome` from bits_per_token on; none for a classifier.

  Tokens that follow each other are not independent; windows of them are far less dependent.
  """
  if scores.nll_nats is None or subject.nll_nats is None:
    return ()
  bits, own = (nll.astype(np.float64) / math.log(2) for nll in (scores.nll_nats, subject.nll_nats))
  difference = (bits - own).mean(axis=1)
  return (float(bits.mean()), float(difference.mean()), *mean_interval(difference))


def _int8(config: ml_collections.ConfigDict, variables: dict[str, Any]) -> tuple[LabelScores, int]:
  """Returns (test scores, bytes) of a dense network in int8, read back from its bytes."""
  packed = int8.compress(int8.quantise(variables['params']))
  restored = {**variables, 'params': int8.dequantise(int8.decompress(packed))}
  return scorer(config)(restored), len(packed)


def _id(subject: Subject) -> str:
  return f'{subject.name} {subject.config.seed}'
