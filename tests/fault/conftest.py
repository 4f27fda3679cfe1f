import os
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def place():
    """A folder in memory where the system has one: thousands of flushes to a disk take minutes and show no more."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder made in it is private
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder).resolve()
