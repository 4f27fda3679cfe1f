"""How much memory the work may take, and how one is told that it has taken too much."""

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

from triptych.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 1 << 25  # the most that M_MMAP_THRESHOLD may be
SMALL = 1 << 30  # bytes of a model's weights that the machine can be thought to hold several times
SPARE = 1 << 29  # bytes that may lie free in the C library's heap


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of malloc.h; `fordblks` are the bytes that lie free."""

    _fields_ = [("others", ctypes.c_size_t * 8), ("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]


def hold_memory(model: Path, limit: int | None) -> None:
    """Say how the C library is to give memory back (glibc; elsewhere nothing happens).

    Left alone it would keep blocks of up to 32 MB in its heap once some were freed: weights that come and go by the hundred
    then leave holes that stay resident, 1.6 GB of them for a 2B model. So where a model is large, or memory limited, blocks
    of 1 MB and more go back at once. That costs a quarter of all time, for the system clears what it gives anew; of a
    model that is `SMALL` they go back when `return_memory` finds too many of them free.
    """
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if limit is None and size <= SMALL:
            libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
            libc.mallopt(M_TRIM_THRESHOLD, SPARE)
        else:
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)


def return_memory() -> None:
    """Give what lies free in the C library's heap back to the system, holes included, where it is more than `SPARE`."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallinfo2.restype = _Mallinfo2
        if libc.mallinfo2().fordblks > SPARE:
            libc.malloc_trim(0)


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
