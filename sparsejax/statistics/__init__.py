"""What may be said of scores: intervals, paired comparisons, predictive distributions.

Functions of NumPy arrays, apart from any model.
"""
from sparsejax.statistics.intervals import (
  Interval,
  joint_level,
  mean_interval,
  prediction_interval,
)
from sparsejax.statistics.paired import (
  Difference,
  McNemar,
  NonInferiority,
  SeedsDifference,
  difference_interval,
  mcnemar,
  non_inferior,
  seeds_difference,
)
from sparsejax.statistics.predictive import auroc, entropy, posterior_predictive, scores
from sparsejax.statistics.regression import RegressionScores, mixture_scores

__all__ = [
  'Difference', 'Interval', 'McNemar', 'NonInferiority', 'RegressionScores', 'SeedsDifference',
  'auroc', 'difference_interval', 'entropy', 'joint_level', 'mcnemar', 'mean_interval',
  'mixture_scores', 'non_inferior', 'posterior_predictive', 'prediction_interval', 'scores',
  'seeds_difference',
]
