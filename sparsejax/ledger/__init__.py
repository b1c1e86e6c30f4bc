"""The honest sheet: what a network costs, how well it does, and where the numbers come from."""
from sparsejax.ledger.calibration import (
  brier_score,
  classification_scores,
  error_percent,
  expected_calibration_error,
  nll_nats,
  scores_of_predictions,
)
from sparsejax.ledger.count import architecture_kept, count_layers, totals
from sparsejax.ledger.ledger import assemble, read, validate, write
from sparsejax.ledger.measurement import measure
from sparsejax.ledger.provenance import describe_run
from sparsejax.ledger.schema import KEYS, LAYER_KEYS, LEDGER_VERSION
from sparsejax.ledger.sheet import table
from sparsejax.ledger.timing import interleaved_milliseconds, thread_count

__all__ = [
  'KEYS', 'LAYER_KEYS', 'LEDGER_VERSION', 'architecture_kept', 'assemble', 'brier_score',
  'classification_scores', 'count_layers', 'describe_run', 'error_percent',
  'expected_calibration_error', 'interleaved_milliseconds', 'measure', 'nll_nats', 'read',
  'scores_of_predictions', 'table', 'thread_count', 'totals', 'validate', 'write',
]
