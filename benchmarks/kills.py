"""`kill -9` at random moments of compressing a model of images, sounds and words; then the same command again.

Each trial must end in the same bytes as a run that nobody disturbed, redo no block that was journalled, and leave nothing beside
the result.

    python -m benchmarks.kills [--trials 100]
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from benchmarks import record
from triptych import console
from triptych.compress.hub.prepare import HubRequest
from triptych.compress.hub.verb import compress_folder, work_folder
from triptych.models.tiny_batch import tiny_batch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
SAMPLES = 6


def make_model(folder: Path, family: str) -> None:
    """A tiny model with random weights, and samples for it."""
    from families import FAMILIES

    model = FAMILIES[family]()
    model.save_pretrained(folder / "model")
    (folder / "data").mkdir()
    for seed in range(SAMPLES):
        inputs = tiny_batch(model, rows=1, seed=seed).inputs
        tensors = {name: value.contiguous() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        safetensors.torch.save_file(tensors, folder / "data" / f"{seed}.safetensors")


def compress_apart(folder: Path) -> int:
    """Start the compression in a process of its own (a fork, so that nothing is imported again); its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        torch.set_num_threads(1)
        console.set_mode(quiet=True)
        wanted = HubRequest(model=folder / "model", data=folder / "data", out=folder / "out" / "small", rows=4, check=2)
        compress_folder(wanted, command="triptych compress model --data data --out out/small")
        status = 0
    finally:
        os._exit(status)


def finish(folder: Path) -> None:
    """Run to the end."""
    _, status = os.waitpid(compress_apart(folder), 0)
    if status:
        raise SystemExit(f"the compression in {folder} failed with status {status}")


def digest(folder: Path) -> str:
    """Of every name and every byte below a folder."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def trial(folder: Path, wait: float) -> dict[str, Any]:
    """Kill one run after some seconds, run again; what was journalled by then and whether it was kept."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    child = compress_apart(folder)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    work = work_folder(folder / "out" / "small")
    journalled = {path.name: path.stat().st_mtime_ns for path in work.glob("*.safetensors")}
    published = (folder / "out" / "small").is_dir()
    again = compress_apart(folder)
    kept = True
    while os.waitpid(again, os.WNOHANG)[0] == 0:
        now = {path.name: _time(path) for path in work.glob("*.safetensors")}
        kept = kept and all(now.get(name, when) == when for name, when in journalled.items())
        time.sleep(0.01)
    return {
        "after_s": wait,
        "blocks_journalled": len(journalled),
        "published_before_the_kill": published,
        "blocks_kept": kept,
        "digest": digest(folder / "out" / "small"),
        "stray": sorted(path.name for path in (folder / "out").iterdir() if path.name != "small"),
    }


def _time(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def main() -> None:
    """All trials; the waits are spread over a whole run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--family", default="qwen2_5_omni")
    asked = parser.parse_args()
    draw = random.Random(0)  # noqa: S311 - moments, not secrets
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, asked.family)
        began = time.monotonic()
        finish(folder)
        whole = time.monotonic() - began
        wanted = digest(folder / "out" / "small")
        trials = []
        with console.progress("kill -9 and again", asked.trials, unit="trial") as advance:
            for _ in range(asked.trials):
                trials.append(trial(folder, draw.uniform(0, whole)))
                advance(1)
    found = {
        "family": asked.family,
        "trials": len(trials),
        "identical": sum(t["digest"] == wanted for t in trials),
        "blocks_kept": sum(t["blocks_kept"] for t in trials),
        "without_stray_files": sum(not t["stray"] for t in trials),
        "blocks_journalled_at_the_kill": sorted(t["blocks_journalled"] for t in trials),
    }
    record.write("kills", found)
    console.say(f"{found}")


if __name__ == "__main__":
    main()
