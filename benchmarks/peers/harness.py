"""One job for every peer: read the same model and tensors, time the compression alone, write plain weights back.

It runs inside a peer's environment, where Triptych is not installed. A peer's module gives `run` one function that
compresses the model in place and returns a second one that reads the result; the first is timed, the second is not.
Whatever a peer raises goes into the result, so that a table has a row for it.
"""

import argparse
import datetime as dt
import gc
import json
import math
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.fidelity import samples

Batch = dict[str, Tensor]
SCALE_BITS = 16  # every peer stores its scales in half precision


@dataclass(frozen=True)
class Job:
    """What is asked of a peer."""

    model: Path
    calibration: Path | None
    bits: int
    group: int
    method: str
    modules: str
    out: Path
    result: Path
    batch: int
    dtype: str
    threads: int | None
    steps: int
    seed: int


@dataclass(frozen=True)
class Compressed:
    """What a peer made: changed parameters by name, as the numbers its codes stand for, and their price."""

    weights: dict[str, Tensor]
    bits_per_weight: float  # codes, scales and zeros, over the layers asked for


Reader = Callable[[], Compressed]
Compressor = Callable[[Job, nn.Module, list[str], list[Batch]], Reader]


def run(peer: str, packages: Iterable[str], methods: Iterable[str], compress: Compressor) -> None:
    """Carry out the job on the command line, or those of `--jobs FILE` (JSON, a list of command lines) in one process."""
    several = sys.argv[1:2] == ["--jobs"]
    for words in json.loads(Path(sys.argv[2]).read_text()) if several else [sys.argv[1:]]:
        do(peer, packages, arguments(peer, methods, words), compress)


def do(peer: str, packages: Iterable[str], job: Job, compress: Compressor) -> None:
    """Carry out one job and write its result."""
    if job.threads:
        torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    report: dict[str, Any] = {
        "peer": peer,
        **{key: getattr(job, key) for key in ("method", "bits", "group", "modules", "seed", "batch", "steps")},
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", *packages)},
        },
    }
    try:
        report |= {"status": "done", **carry_out(job, compress)}
    except Exception as error:  # noqa: BLE001 the table shows what a peer cannot do
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        report |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "where": where}
        traceback.print_exc()
    job.result.parent.mkdir(parents=True, exist_ok=True)
    job.result.write_text(json.dumps(report, indent=1) + "\n")


def carry_out(job: Job, compress: Compressor) -> dict[str, Any]:
    """Load, compress, read and save; seconds of each, and peak memory above the loaded libraries."""
    floor = resident()
    clear_peak()
    began = time.monotonic()
    model = load(job)
    names = layers(model, job.modules)
    calibration = batches(job)
    loaded = time.monotonic()
    peak_load = peak() - floor
    reader = compress(job, model, names, calibration)
    compressed = time.monotonic()
    peak_compress = peak() - floor
    made = reader()
    read = time.monotonic()
    del model, reader
    gc.collect()
    save(job, made.weights)
    saved = time.monotonic()
    return {
        "seconds": {
            "load": loaded - began,
            "compress": compressed - loaded,
            "read": read - compressed,
            "save": saved - read,
            "whole": saved - began,
        },
        "peak_memory_bytes": {"load": peak_load, "compress": peak_compress, "libraries": floor},
        "bits_per_weight": made.bits_per_weight,
        "layers": len(names),
        "samples": sum(next(iter(sample.values())).shape[0] for sample in calibration),
    }


def load(job: Job) -> nn.Module:
    """The model in the class its config names."""
    architecture = transformers.AutoConfig.from_pretrained(job.model).architectures[0]
    dtype = job.dtype if job.dtype == "auto" else getattr(torch, job.dtype)
    return getattr(transformers, architecture).from_pretrained(job.model, dtype=dtype).eval()


def layers(model: Any, modules: str) -> list[str]:
    """Names of the linear layers to compress.

    `decoder` are those of the text decoder's stack, `all` those of the whole model, both without the output head; any
    other word is a JSON file that lists them.

    Raises:
        ValueError: Nothing is left, or a listed name is no linear layer.
    """
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    if modules not in {"decoder", "all"}:
        listed: list[str] = json.loads(Path(modules).read_text())
        if unknown := set(listed) - set(linear):
            raise ValueError(f"no linear layers: {', '.join(sorted(unknown)[:5])}")
        return listed
    head = model.get_output_embeddings()
    within = model
    if modules == "decoder":
        if head is None:
            raise ValueError(f"{type(model).__name__} has no text decoder")
        within = model.get_decoder()
    inside = set(within.modules())
    chosen = [name for name, module in linear.items() if module in inside and module is not head]
    if not chosen:
        raise ValueError(f"no linear layer in the {modules} of {type(model).__name__}")
    return chosen


def batches(job: Job) -> list[Batch]:
    """The calibration tensors in batches; every first dimension is samples.

    A file of `fidelity.samples` holds samples of several shapes: `batch` of the same shape go together.
    """
    if job.calibration is None:
        return []
    whole = load_file(job.calibration)
    if all("." in name for name in whole):
        return samples.batches(samples.read_samples(job.calibration), job.batch)
    count = next(iter(whole.values())).shape[0]
    found = [{key: t[i : i + job.batch] for key, t in whole.items()} for i in range(0, count, job.batch)]
    if "image_grid_thw" in whole:  # Qwen-VL joins the patches of all samples
        found = [{**batch, "pixel_values": batch["pixel_values"].flatten(0, -2)} for batch in found]
    return found


def price(weights: Iterable[Tensor], bits: float, group: int, zero_bits: float = 0.0) -> float:
    """Bits per weight with a scale, and a zero, for each group of each row; group 0 is a whole row."""
    count, total = 0, 0.0
    for weight in weights:
        rows, width = weight.shape
        groups = math.ceil(width / (group or width))
        count += weight.numel()
        total += weight.numel() * bits + rows * groups * (SCALE_BITS + zero_bits)
    return total / count


def save(job: Job, weights: dict[str, Tensor]) -> None:
    """The original model with the changed weights in place, under the names it had, with all its other files.

    Raises:
        ValueError: A weight that the model does not have, or that is not finite.
    """
    model: Any = load(job)
    own = dict(model.named_parameters(remove_duplicate=False))
    for name, weight in weights.items():
        if name not in own or own[name].shape != weight.shape:
            raise ValueError(f"the model has no {name} of shape {tuple(weight.shape)}")
        if not weight.isfinite().all():
            raise ValueError(f"{name} is not finite")
        own[name].data.copy_(weight)
    if job.out.exists():
        shutil.rmtree(job.out)
    job.out.mkdir(parents=True)
    model.save_pretrained(job.out)
    for file in job.model.iterdir():
        if file.is_file() and "safetensors" not in file.name and not (job.out / file.name).exists():
            shutil.copy(file, job.out / file.name)


def resident() -> int:
    """Resident bytes of this process now."""
    return status("VmRSS")


def peak() -> int:
    """Most resident bytes since `clear_peak`. Unlike ru_maxrss, a large parent process does not count."""
    return status("VmHWM")


def clear_peak() -> None:
    """Start the peak anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def status(key: str) -> int:
    """One line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def arguments(peer: str, methods: Iterable[str], words: list[str]) -> Job:
    """A command line, the same for every peer."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.peers.{peer}_run")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder.")
    parser.add_argument("--calibration", type=Path, help="Tensors whose first dimension is samples.")
    parser.add_argument("--bits", type=int, required=True, choices=(2, 3, 4, 8))
    parser.add_argument("--group", type=int, default=64, help="Weights that share a scale; 0: a whole row.")
    parser.add_argument("--method", required=True, choices=tuple(methods))
    parser.add_argument("--modules", default="decoder", help="decoder, all, or a JSON file of names.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the model with the weights it stands for.")
    parser.add_argument("--result", type=Path, required=True, help="JSON file for the figures.")
    parser.add_argument("--batch", type=int, default=1, help="Samples in a batch of calibration.")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--steps", type=int, default=200, help="Of methods that learn.")
    parser.add_argument("--seed", type=int, default=0)
    return Job(**vars(parser.parse_args(words)))
