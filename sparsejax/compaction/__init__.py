"""From zeros to a smaller network: couplings, compaction, and the slicing of training state."""

from sparsejax.compaction.compact import Compacted, compact
from sparsejax.compaction.couplings import Axis, Coupling, Read, Write
from sparsejax.compaction.kept import Kept, slice_like

__all__ = ['Axis', 'Compacted', 'Coupling', 'Kept', 'Read', 'Write', 'compact', 'slice_like']
