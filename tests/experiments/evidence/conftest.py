"""Consoles that keep their text."""
import io

import pytest
from rich.console import Console


@pytest.fixture
def console():
  """A wide console; what was printed is in console.file.getvalue()."""
  return Console(file=io.StringIO(), width=300)
