"""The machine and the versions that a figure was measured with."""

import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("triptych", "torch", "openvino", "transformers", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a figure is."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def cpu_name() -> str:
    """The processor's name as the system knows it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
