"""Seconds and peak memory of compressing one model, ours against its peers: same tensors, same threads, one after the other.

The decoder of SmolVLM-256M with random weights, 32 samples of 256 tokens, 4 bits in groups of 64, the output head left as
it is. Every contender is a process of its own, `REPEATS` times; `whole` counts it from start to exit, imports and saving
included, and `compress` is what a peer says of the step alone. Peak memory is above an interpreter with its libraries
loaded. Finished rows are kept.

    python -m benchmarks.compression_speed [NAME...]
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import geometry, record
from benchmarks.peers import environments

WORK = Path(__file__).parents[1] / "runs" / "speed"
GEOMETRY = Path("/tmp/geometry")  # noqa: S108
SAMPLES, LENGTH, BITS, GROUP = 32, 256, 4, 64
THREADS = os.cpu_count() or 1
REPEATS = 3
STEPS = 200

# Peer, method: what is run beside ours. The first is the one to compare with.
PEERS = (
    ("llmcompressor", "gptq"),
    ("llmcompressor", "awq"),
    ("nncf", "scale"),
    ("nncf", "gptq"),
    ("auto_round", "auto_round"),
)


def ours(model: Path, calibration: Path, out: Path) -> list[str]:
    """The command of our own GPTQ on the decoder, and nothing after it."""
    scheme = ["--component", f"decoder=w{BITS}g{GROUP}", "--method", "gptq", "--rows", str(SAMPLES), "--check", "0"]
    command = [sys.executable, "-m", "triptych", "compress", str(model), "--data", str(calibration), "--out", str(out)]
    return [*command, *scheme, "--json"]


def theirs(peer: str, method: str, model: Path, calibration: Path, out: Path) -> list[str]:
    """The command of a peer; its figures are written beside `out`."""
    options = {
        "model": model,
        "calibration": calibration,
        "bits": BITS,
        "group": GROUP,
        "method": method,
        "modules": "decoder",
        "out": out,
        "result": out.with_suffix(".json"),
        "threads": THREADS,
        "steps": STEPS,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [str(environments.make(peer)), "-m", f"benchmarks.peers.{peer}_run", *words]


def timed(command: list[str], log: Path) -> tuple[float, int]:
    """Wall seconds of a process and the most bytes resident in it.

    Raises:
        RuntimeError: It failed; the log says why.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(THREADS))
    with log.open("w") as file:
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **threads}, cwd=Path(__file__).parents[1]
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}; see {log}")
    return seconds, used.ru_maxrss * 1024


def loaded(python: Path | str, libraries: str) -> int:
    """Resident bytes of an interpreter once the libraries are imported."""
    status = "int(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1]) * 1024"
    code = f"import {libraries}\nprint({status})"
    return int(subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1])


def our_row(model: Path, calibration: Path) -> dict[str, Any]:
    floor = loaded(sys.executable, "torch, transformers, triptych.cli")
    seconds, peaks = [], []
    for attempt in range(REPEATS):
        out = WORK / f"ours-{attempt}"
        shutil.rmtree(out, ignore_errors=True)
        taken, resident = timed(ours(model, calibration, out), WORK / f"ours-{attempt}.log")
        seconds.append(taken)
        peaks.append(resident - floor)
    return {"whole_seconds": seconds, "peak_memory_bytes": max(peaks)}


def peer_row(peer: str, method: str, model: Path, calibration: Path) -> dict[str, Any]:
    """A peer's figures; one that cannot take the model has its error for a row."""
    seconds, results = [], []
    for attempt in range(REPEATS):
        out = WORK / f"{peer}-{method}-{attempt}"
        taken, _ = timed(theirs(peer, method, model, calibration, out), out.with_suffix(".log"))
        seconds.append(taken)
        results.append(json.loads(out.with_suffix(".json").read_text()))
        shutil.rmtree(out, ignore_errors=True)  # what it weighs is known; fidelity is measured elsewhere
        if results[-1]["status"] != "done":
            return {key: results[-1][key] for key in ("status", "error", "versions")}
    return {
        "whole_seconds": seconds,
        "compress_seconds": [result["seconds"]["compress"] for result in results],
        "load_seconds": [result["seconds"]["load"] for result in results],
        "peak_memory_bytes": max(result["peak_memory_bytes"]["compress"] for result in results),
        "bits_per_weight": results[-1]["bits_per_weight"],
        "versions": results[-1]["versions"],
    }


def main() -> None:
    """Time ours and every peer, or those named on the command line (`ours`, `llmcompressor gptq`, ...)."""
    WORK.mkdir(parents=True, exist_ok=True)
    model = geometry.smollm_135m(GEOMETRY / "smollm_135m")
    calibration = geometry.tokens(GEOMETRY / "smollm_135m.safetensors", samples=SAMPLES, length=LENGTH)
    contenders = {"ours": lambda: our_row(model, calibration)}
    for peer, method in PEERS:
        contenders[f"{peer} {method}"] = lambda peer=peer, method=method: peer_row(peer, method, model, calibration)
    rows: dict[str, Any] = record.read("compression_speed").get("rows", {})
    asked = sys.argv[1:] or [name for name in contenders if name not in rows]
    for name in asked:
        rows[name] = contenders[name]()
        setting = {
            "samples": SAMPLES,
            "length": LENGTH,
            "bits": BITS,
            "group": GROUP,
            "threads": THREADS,
            "steps": STEPS,
        }
        record.write("compression_speed", {"model": "smollm_135m", **setting, "ratio": ratios(rows), "rows": rows})


def ratios(rows: dict[str, Any]) -> dict[str, float]:
    """Our whole time over the time of each peer's compression step alone: what is timed favours the peer."""
    if "ours" not in rows:
        return {}
    mine = median(rows["ours"]["whole_seconds"])
    return {name: mine / median(row["compress_seconds"]) for name, row in rows.items() if "compress_seconds" in row}


if __name__ == "__main__":
    main()
