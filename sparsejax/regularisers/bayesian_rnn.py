"""Bayesian sparsification of recurrent networks: the recipe of four papers as one call.

Lobacheva, Chirkova, Vetrov, 2017, arXiv:1708.00077 (a posterior per weight); Chirkova, Lobacheva,
Vetrov, 2018, arXiv:1810.10927 (variables on words and neurons); Lobacheva et al., 2018,
arXiv:1812.05692, and 2020, arXiv:1911.05585 (variables on gates).

* Kernels of the cells: one draw per mini-batch, the same at all time steps and in all sequences.
* Embedding: likewise; only the rows looked up are drawn.
* Output layer: local reparameterisation, one draw for all time steps of a sequence.
* Group variables: one draw per sequence, the same at all time steps.

With z the group variables and f the function of gate k, an LSTM computes in training

  f( ((x * z_inputs) W_ik + (h * z_hidden) W_hk) * z_k + b_k ).

The hidden variable multiplies a state wherever it is read: in the recurrent kernels, and in the
next layer or the output layer. The papers multiply the emitted state, which for an LSTM is the
same; in a GRU, which also hands its state on directly, that would multiply once more at each step.

There is no warm-up of the KL: leave the trainer's `penalty_weight` at 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparsejax.cell_paths import CELLS, cell_kernels, kernel_pattern
from sparsejax.regulariser import Number, Regulariser, partition
from sparsejax.regularisers.group_variables import group_variables
from sparsejax.regularisers.principal_axes import turning
from sparsejax.regularisers.variational_dropout import sparse_variational_dropout

GROUPS = ('words', 'inputs', 'hidden', 'gates')


def bayesian_rnn(
    strength: Number = 1.0,
    *,
    cells_strength: Number | None = None,
    cells: str = CELLS,
    embedding: str | None = 'embed/embedding',
    head: str | None = 'head/kernel',
    groups: Sequence[str] = GROUPS,
    kl: str = 'approximation',
    threshold: Number = 3.0,
    clip: float | None = 8.0,
    init_log_sigma: float = -3.0,
    head_noise: str = 'local_shared',
    principal_axes_at: int | None = None,
) -> Regulariser:
  """A posterior per weight of embedding, cells and output layer, and variables on their groups.

  Args:
    strength: factor of the whole KL; 1 is the variational bound.
    cells_strength: in its place, of the KL of the weights of cells and output layer, of which there
      are few beside an embedding's, but each of them acts in every example; None: `strength`.
    cells: pattern of the paths of the cells. Layers stand in the order of the numbers in their
      names. Their kernels are named as Flax names them: i (of inputs) or h (of the state), then
      the gate's letter.
    embedding: pattern of the path of the embedding; None if the network has one-hot or real inputs.
    head: pattern of the path of the output layer's kernel; None if there is none.
    groups: which variables, of
      'words': rows of the embedding, without one those of the first cell's input kernels;
      'inputs': rows of the first cell's input kernels, dimensions of the embedding;
      'hidden': rows of each cell's recurrent kernels and of the layer that reads the cell;
      'gates': columns of each gate's kernels.
      Without an embedding, words and inputs are one group. () is the first paper's.
    kl: 'approximation', 'exact' or 'first' (the follow-ups' code), see `log_uniform.py`.
    threshold: weights and groups with log alpha >= threshold are removed.
    clip: bound of |log alpha| in the KL.
    init_log_sigma: initial log standard deviation of weights and variables.
    head_noise: of the output layer, see `sparse_variational_dropout`: 'local_shared' is one draw
      for all time steps; 'weight' one for the whole batch, as in the word-level language model.
    principal_axes_at: after so many steps the embedding is turned into its principal axes, once
      (`principal_axes.py`: the mean network stays what it is); restart the optimiser then. Not in
      the papers, whose embeddings are pre-trained. None: never.

  Returns the partition {'embedding', 'cells', 'head', 'free'}, with groups as the `inner` of
  `group_variables`. Groups are named 'words', 'inputs', 'hidden_<cell>', 'gate_<letter>_<cell>'.

  Raises:
    ValueError: for an unknown group, one that the network lacks, or a pattern that matches nothing.
  """
  groups = tuple(groups)
  unknown = [group for group in groups if group not in GROUPS]
  if unknown:
    raise ValueError(f'groups={groups} has the unknown {unknown[0]!r}; there are '
                     f'{", ".join(map(repr, GROUPS))}')

  if cells_strength is None:
    cells_strength = strength

  def posterior(noise, strength):
    return sparse_variational_dropout(strength, noise=noise, kl=kl, threshold=threshold, clip=clip,
                                      init_log_sigma2=2 * init_log_sigma)

  rules = {'cells': (kernel_pattern(cells), posterior('weight', cells_strength))}
  if embedding is not None:
    rules['embedding'] = (embedding, posterior('rows', strength))
  if head is not None:
    rules['head'] = (head, posterior(head_noise, cells_strength))
  inner = partition(**rules)
  if principal_axes_at is not None and (embedding is None or principal_axes_at < 1):
    raise ValueError(f'principal_axes_at={principal_axes_at} with embedding={embedding!r}: it is a '
                     'number of steps, 1 or more, for a network with an embedding; None: never')
  if not groups:
    return turning(inner, principal_axes_at, cells)

  def axes(paths):
    return rnn_groups(paths, groups, cells=cells, embedding=embedding, head=head)

  grouped = group_variables(inner, axes, strength=strength, kl=kl, threshold=threshold, clip=clip,
                            init_log_sigma=init_log_sigma)
  return turning(grouped, principal_axes_at, cells)


def rnn_groups(paths: Sequence[str], groups: Sequence[str] = GROUPS, *, cells: str = CELLS,
               embedding: str | None = 'embed/embedding',
               head: str | None = 'head/kernel') -> dict[str, dict[str, int]]:
  """Returns {name: {pattern: axis}} of the groups in a network with these paths of weights.

  The arguments are those of `bayesian_rnn`.

  Raises:
    ValueError: if no path is a kernel of a cell, or the cells have no gates and gates are asked.
  """
  layers = cell_kernels(paths, cells)
  names = list(layers)
  found: dict[str, dict[str, int]] = {}

  def rows(cell, side):
    return {re.escape(path): -2 for path in layers[cell][side].values()}

  if 'words' in groups and embedding is not None:
    found['words'] = {embedding: -2}
  if 'inputs' in groups:
    found['inputs'] = rows(names[0], 'i')
  elif 'words' in groups and embedding is None:
    found['words'] = rows(names[0], 'i')
  for cell, following in zip(names, [*names[1:], None]):
    short = cell.replace('/', '.')
    if 'hidden' in groups:
      readers = rows(following, 'i') if following else {} if head is None else {head: -2}
      found[f'hidden_{short}'] = {**rows(cell, 'h'), **readers}
    if 'gates' in groups:
      if '' in layers[cell]['h']:
        raise ValueError(f"{cell} has no gates (nn.SimpleCell); leave 'gates' out of groups")
      for gate in layers[cell]['h']:
        found[f'gate_{gate}_{short}'] = {
            re.escape(layers[cell][side][gate]): -1 for side in ('i', 'h')}
  return found
