"""How much memory the work may take, and how one is told that it has taken too much."""

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

from triptych.errors import InputError

M_MMAP_THRESHOLD = -3  # malloc.h


def return_memory() -> None:
    """Have the C library give large blocks back to the system when they are freed (glibc; elsewhere nothing happens).

    It would keep blocks of up to 32 MB in its heap once some were freed: weights that come and go by the hundred then leave
    holes that stay resident, 1.6 GB of them for a 2B model.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 20)


def limit_memory(resident: int) -> None:
    """Have allocations fail that would take this process beyond so many resident bytes, libraries included.

    The kernel counts private data, so what is resident besides (shared libraries) is left room for. Without a limit a system
    that has no memory left kills a process, which its journal survives, but which it cannot answer by taking less.

    Raises:
        InputError: more than that is resident already.
    """
    now = resident_bytes()
    if resident <= now:
        raise InputError(f"{now:,} bytes are resident before any work, more than the {resident:,} of --memory.")
    data = _status("VmData") + resident - now
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data if hard < 0 else min(data, hard), hard))


def resident_bytes() -> int:
    """Bytes of this process that are in memory now."""
    with Path("/proc/self/statm").open(encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def total_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: Python says MemoryError, PyTorch a RuntimeError."""
    said = isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    return said or isinstance(error, MemoryError)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
