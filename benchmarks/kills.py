"""`kill -9` at random moments of compressing a model of images, sounds and words; then the same command again.

Each trial must end in the same bytes as a run that nobody disturbed, redo at most the block it was in, and leave nothing beside
the result. Half of the moments are spread over a whole run, half over the time from the first finished block to the end.

Trials are added to those that were made before.

    python -m benchmarks.kills [--trials 100] [--anew]
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
from triptych.compress import driver
from triptych.compress.hub.request import HubRequest, work_folder
from triptych.compress.hub.verb import compress_folder
from triptych.models.tiny_batch import tiny_batch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
SAMPLES = 6


def make_model(folder: Path, family: str, shard_bytes: int = 2**30) -> None:
    """A tiny model with random weights, and samples for it."""
    from families import FAMILIES

    model = FAMILIES[family]()
    model.save_pretrained(folder / "model", max_shard_size=shard_bytes)
    (folder / "data").mkdir()
    for seed in range(SAMPLES):
        inputs = tiny_batch(model, rows=1, seed=seed).inputs
        tensors = {name: value.contiguous() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        safetensors.torch.save_file(tensors, folder / "data" / f"{seed}.safetensors")


def compress_apart(folder: Path) -> int:
    """Start the compression in a process of its own (a fork, so that nothing is imported again); its process id.

    Every block that it begins to round is a line of `begun`.
    """
    begun = folder / "begun"
    begun.write_text("")
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        torch.set_num_threads(1)
        real = driver._round_group

        def noted(stream: Any, group: driver.Group, *rest: Any) -> None:
            with begun.open("a") as file:
                file.write(f"{group.block}\n")
            real(stream, group, *rest)

        driver._round_group = noted
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


def durations(folder: Path) -> tuple[float, float]:
    """Seconds of an undisturbed run, and of what comes after its first finished block."""
    began = time.monotonic()
    child, work, first = compress_apart(folder), work_folder(folder / "out" / "small"), began
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if first == began and list(work.glob("*.safetensors")):
            first = time.monotonic()
        time.sleep(0.001)
    return time.monotonic() - began, time.monotonic() - first


def digest(folder: Path) -> str:
    """Of every name and every byte below a folder."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def trial(folder: Path, wait: float, wanted: str, *, from_first_block: bool) -> dict[str, Any]:
    """Kill one run after some seconds, run again; what was finished by then, and which blocks were rounded twice."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    work = work_folder(folder / "out" / "small")
    child = compress_apart(folder)
    while from_first_block and not list(work.glob("*.safetensors")):
        time.sleep(0.001)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    finished = len(list(work.glob("*.safetensors")))
    published = (folder / "out" / "small").is_dir()
    before = set((folder / "begun").read_text().split("\n")[:-1])
    finish(folder)
    return {
        "after_s": wait,
        "blocks_finished": finished,
        "published_before_the_kill": published,
        "blocks_redone": sorted(before & set((folder / "begun").read_text().split("\n")[:-1])),
        "identical": digest(folder / "out" / "small") == wanted,
        "stray": sorted(path.name for path in (folder / "out").iterdir() if path.name != "small"),
    }


def main() -> None:
    """All trials."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--family", default="qwen2_5_omni")
    parser.add_argument("--anew", action="store_true")
    asked = parser.parse_args()
    trials: list[dict[str, Any]] = [] if asked.anew else record.read("kills").get("each", [])
    draw = random.Random(len(trials))  # noqa: S311 - moments, not secrets
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, asked.family)
        whole, rounding = durations(folder)
        blocks = len(set((folder / "begun").read_text().split("\n")[:-1]))
        wanted = digest(folder / "out" / "small")
        with console.progress("kill -9 and again", asked.trials, unit="trial") as advance:
            for number in range(asked.trials):
                late = number % 2 == 1
                wait = draw.uniform(0, rounding if late else whole)
                trials.append(trial(folder, wait, wanted, from_first_block=late))
                advance(1)
    found = {
        "family": asked.family,
        "trials": len(trials),
        "identical": sum(t["identical"] for t in trials),
        "most_blocks_redone": max(len(t["blocks_redone"]) for t in trials),
        "without_stray_files": sum(not t["stray"] for t in trials),
        "blocks": blocks,
        "published_before_the_kill": sum(t["published_before_the_kill"] for t in trials),
        "blocks_finished_at_the_kill": sorted(t["blocks_finished"] for t in trials),
        "undisturbed_s": {"whole": whole, "from_the_first_block": rounding},
    }
    record.write("kills", {**found, "each": trials})
    console.say(f"{found}")


if __name__ == "__main__":
    main()
