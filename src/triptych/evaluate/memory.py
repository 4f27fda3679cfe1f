"""Peak memory of a command: what it held at most, above what an empty process of the same kind holds.

Measured is the kernel's high-water mark of the resident set (VmHWM in /proc/<pid>/status): private pages, and those
pages of mapped files (weights, libraries) that were touched. The kernel keeps the maximum itself, so nothing is missed
between two looks, as sampling would. Swapped-out pages and GPU memory are not in it.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence

from triptych.errors import InputError, TriptychError

# The mark is read from wait4, whose ru_maxrss covers the process image before exec too. Started from here that image
# would be this process, grown to gigabytes by torch; so a bare interpreter of a few megabytes starts the command.
_LAUNCHER = """
import os, sys
report = int(sys.argv[1])
os.set_inheritable(report, False)
try:
    child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
except OSError as error:
    sys.exit(f"{sys.argv[2]} cannot be started: {error.strerror}")
_, status, usage = os.wait4(child, 0)
os.write(report, str(usage.ru_maxrss).encode())
sys.exit(1 if status else 0)
"""
_UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere


def peak_memory(argv: Sequence[str], baseline: Sequence[str] | None = None) -> int:
    """Run a command in a fresh process; the bytes by which its peak exceeds that of the baseline, at least 0.

    Args:
        argv: the command, for example an interpreter that loads a model and predicts once.
        baseline: a command that does everything but the work to be measured (the same imports, no model). By default
            the bare interpreter, so that imports count.

    Raises:
        InputError: a command cannot be started.
        TriptychError: a command failed; carries the end of what it wrote to standard error.
    """
    idle = resident_peak([sys.executable, "-c", "pass"] if baseline is None else baseline)
    return max(0, resident_peak(argv) - idle)


def resident_peak(argv: Sequence[str]) -> int:
    """Run a command to its end; the peak resident bytes of it, or of the largest of the children it waited for.

    Readings below a bare interpreter's (some 10 MB) are not told apart.

    Raises:
        InputError, TriptychError: as `peak_memory`.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as report:
        try:
            done = subprocess.run(  # noqa: S603 - runs the command it was given, without a shell
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(writing), *argv],
                pass_fds=(writing,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
        finally:
            os.close(writing)
        peak = report.read()
    said = done.stderr.decode(errors="replace").strip()[-2000:]
    if not peak:
        raise InputError(f"The command to measure did not run: {said}.", "Check the command.")
    if done.returncode:
        raise TriptychError(f"The command to measure failed: {' '.join(argv)}\n{said}", "Run it by itself to see why.")
    return int(peak) * _UNIT


def own_peak() -> int:
    """The most bytes that were resident in this process so far; it never falls."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
