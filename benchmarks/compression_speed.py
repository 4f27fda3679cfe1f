"""Seconds and peak memory of compressing one model, ours against its peers: same tensors, same threads, one after the other.

The decoder of SmolVLM-256M with random weights, 32 samples of 256 tokens, 4 bits in groups of 64, the output head left as
it is. Every contender is a process of its own, `REPEATS` times; `whole` counts it from start to exit, imports and saving
included, and `compress` is what a peer says of the step alone. Peak memory is above an interpreter with its libraries
loaded. Every reading is kept at once, and added to those that are there unless they are to be taken anew.

    python -m benchmarks.compression_speed [--repeats N] [--anew] [NAME...]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
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
    # Modules compiled once stay compiled, as they do wherever nobody forbids it: 3,000 of them anew take 12 s.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("w") as file:
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**kept, **threads}, cwd=Path(__file__).parents[1]
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


def our_reading(model: Path, calibration: Path) -> dict[str, Any]:
    """One run of ours."""
    out = WORK / "ours"
    shutil.rmtree(out, ignore_errors=True)
    floor = loaded(sys.executable, "torch, transformers, triptych.cli")
    seconds, resident = timed(ours(model, calibration, out), out.with_suffix(".log"))
    return {"whole_seconds": [seconds], "peak_memory_bytes": resident - floor}


def peer_reading(peer: str, method: str, model: Path, calibration: Path) -> dict[str, Any]:
    """One run of a peer; one that cannot take the model has its error for a row."""
    out = WORK / f"{peer}-{method}"
    seconds, _ = timed(theirs(peer, method, model, calibration, out), out.with_suffix(".log"))
    result = json.loads(out.with_suffix(".json").read_text())
    shutil.rmtree(out, ignore_errors=True)  # what it weighs is known; fidelity is measured elsewhere
    if result["status"] != "done":
        return {key: result[key] for key in ("status", "error", "versions")}
    return {
        "whole_seconds": [seconds],
        "compress_seconds": [result["seconds"]["compress"]],
        "load_seconds": [result["seconds"]["load"]],
        "peak_memory_bytes": result["peak_memory_bytes"]["compress"],
        "bits_per_weight": result["bits_per_weight"],
        "versions": result["versions"],
    }


def joined(row: dict[str, Any], reading: dict[str, Any]) -> dict[str, Any]:
    """A row with one reading more: its seconds behind the others, the larger peak, all else as it is now."""
    peak = max(r["peak_memory_bytes"] for r in (row, reading) if "peak_memory_bytes" in r)
    times = {key: row.get(key, []) + value for key, value in reading.items() if key.endswith("_seconds")}
    return {**reading, **times, "peak_memory_bytes": peak}


def main() -> None:
    """Time ours and every peer, or those named on the command line (`ours`, `"llmcompressor gptq"`, ...)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--anew", action="store_true", help="Forget the readings that are there of those named.")
    asked = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    model = geometry.smollm_135m(GEOMETRY / "smollm_135m")
    calibration = geometry.tokens(GEOMETRY / "smollm_135m.safetensors", samples=SAMPLES, length=LENGTH)
    contenders: dict[str, Callable[[], dict[str, Any]]] = {"ours": lambda: our_reading(model, calibration)}
    for peer, method in PEERS:
        contenders[f"{peer} {method}"] = lambda peer=peer, method=method: peer_reading(peer, method, model, calibration)
    rows: dict[str, Any] = record.read("compression_speed").get("rows", {})
    for name in asked.names or [name for name in contenders if name not in rows]:
        if asked.anew:
            rows.pop(name, None)
        for _ in range(asked.repeats):
            reading = contenders[name]()
            rows[name] = reading if "error" in reading else joined(rows.get(name, {}), reading)
            save(rows)


def save(rows: dict[str, Any]) -> None:
    """Write all readings."""
    names = ("samples", "length", "bits", "group", "threads", "steps")
    setting = dict(zip(names, (SAMPLES, LENGTH, BITS, GROUP, THREADS, STEPS), strict=True))
    ratio = {"ratio": ratios(rows, "compress_seconds"), "ratio_whole": ratios(rows, "whole_seconds")}
    record.write("compression_speed", {"model": "smollm_135m", **setting, **ratio, "rows": rows})


def ratios(rows: dict[str, Any], of: str) -> dict[str, float]:
    """Our whole time over a time of each peer; over that of its compression step alone, what is timed favours the peer."""
    if "ours" not in rows:
        return {}
    mine = median(rows["ours"]["whole_seconds"])
    return {name: mine / median(row[of]) for name, row in rows.items() if of in row and name != "ours"}


if __name__ == "__main__":
    main()
