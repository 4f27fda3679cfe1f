"""Where and when a figure was measured, written beside it."""

import datetime as dt
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from triptych.artifact import write_file
from triptych.report.environment import cpu_name

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "openvino", "transformers", "numpy")


def write(name: str, content: dict[str, Any]) -> None:
    """Write results/<name>.json with date, processor, threads and versions."""
    where = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps({"environment": where, **content}, indent=1) + "\n")


def read(name: str) -> dict[str, Any]:
    """What an earlier run wrote, or an empty dictionary."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found
