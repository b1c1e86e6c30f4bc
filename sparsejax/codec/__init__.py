"""Files of weights: what is written is what was measured, and what is read back is what was written."""
from sparsejax.codec.atomic import write_atomically
from sparsejax.codec.weights_file import float32_bytes, read, read_provenance, write

__all__ = ['float32_bytes', 'read', 'read_provenance', 'write', 'write_atomically']
