"""Peak memory of compressing a model that is larger than what may be resident: every linear layer to 4 bits, towers included.

Random weights of a real geometry, a few short samples with pictures. Peak resident bytes of the whole command, less those of an
interpreter that has imported the same libraries; beside it what `--dry-run` had said. Peers are measured by what they say of
the step alone, above their own libraries. With `--seconds` the command is stopped by SIGTERM after so many and goes on when
this is run again; the peak is that of all pieces.

    python -m benchmarks.compression_memory [--seconds N] [qwen2_vl_2b qwen2_vl_7b llmcompressor]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import geometry, record
from benchmarks.peers import environments
from triptych.artifact import write_file
from triptych.evaluate.memory import resident_peak

GEOMETRY = Path("/tmp/geometry")  # noqa: S108
WORK = Path(__file__).parents[1] / "runs" / "memory"
LIBRARIES = "import torch, transformers, triptych.cli, triptych.compress.hub.verb, triptych.compress.quantize.gptq"
SAMPLES, LENGTH, SIDE = 4, 48, 112
STOPPED = 75  # the exit code of a command that goes on when it is run again
TIMED_OUT = 124  # what timeout(1) makes of it
PEER_MODEL = "qwen2_vl_2b"


def ours(name: str, limit: float | None) -> dict[str, Any] | None:
    """What was foretold and what came; None where there is more to do."""
    model, data = folder_of(name)
    out = WORK / name / "out"
    command = [sys.executable, "-m", "triptych", "compress", str(model), "--data", str(data), "--out", str(out)]
    command += ["--rows", str(SAMPLES), "--check", "0", "--component", "*=w4g64"]
    notes = out.with_name("notes.json")
    if not notes.exists():
        said = subprocess.run([*command, "--dry-run", "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
        write_file(notes, json.dumps({"foretold": json.loads(said)["forecast"], "pieces": []}))
        if limit is not None:
            return None
    found = json.loads(notes.read_text())
    with most_bytes(out.parent) as disk:
        found["pieces"].append(piece(command, limit))
    found["pieces"][-1]["disk_bytes"] = disk()
    write_file(notes, json.dumps(found))
    if found["pieces"][-1]["code"] == STOPPED:
        return None
    floor = resident_peak([sys.executable, "-c", LIBRARIES])
    report = json.loads((out / "report.json").read_text())
    came = {key: max(one[key] for one in found["pieces"]) for key in ("peak_bytes", "disk_bytes")}
    came |= {"bytes_after": report["after"]["bytes"], "minutes": sum(one["seconds"] for one in found["pieces"]) / 60}
    shutil.rmtree(out.parent)
    return {
        "what": geometry.MODELS[name].__doc__,
        "bytes_before": report["before"]["bytes"],
        "components": [{key: row[key] for key in ("name", "decision", "dense")} for row in report["components"]],
        "peak_above_libraries": came["peak_bytes"] - floor,
        "pieces": len(found["pieces"]),
        "foretold": found["foretold"],
        "came": came,
    }


def piece(command: list[str], limit: float | None) -> dict[str, Any]:
    """Run the command to its end, or until it is stopped; its peak, exit code and seconds.

    Raises:
        RuntimeError: it failed.
    """
    began = time.monotonic()
    words = command if limit is None else ["timeout", "--foreground", f"{limit}", *command]
    process = subprocess.Popen(words)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    code = STOPPED if process.returncode == TIMED_OUT else process.returncode
    if code not in {0, STOPPED}:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return {"code": code, "peak_bytes": used.ru_maxrss * 1024, "seconds": time.monotonic() - began}


def llmcompressor() -> dict[str, Any]:
    """GPTQ of the decoder alone, the model whole in memory."""
    model, data = folder_of(PEER_MODEL)
    out = WORK / "llmcompressor" / "out"
    result = out.with_suffix(".json")
    command = [str(environments.make("llmcompressor")), "-m", "benchmarks.peers.llmcompressor_run"]
    command += ["--model", str(model), "--calibration", str(data), "--bits", "4", "--method", "gptq"]
    subprocess.run([*command, "--out", str(out), "--result", str(result)], check=True, cwd=Path(__file__).parents[1])
    shutil.rmtree(out, ignore_errors=True)
    found = json.loads(result.read_text())
    if found["status"] != "done":
        return {"error": found["error"], "versions": found["versions"]}
    memory = found["peak_memory_bytes"]
    return {
        "what": f"llm-compressor, GPTQ of the decoder of {PEER_MODEL}",
        "bytes_before": sum(file.stat().st_size for file in model.glob("*.safetensors")),
        "peak_above_libraries": max(memory["load"], memory["compress"]),
        "minutes": found["seconds"]["whole"] / 60,
        "versions": found["versions"],
    }


def folder_of(name: str) -> tuple[Path, Path]:
    """A model and its calibration tensors, made unless they are there."""
    folder = geometry.MODELS[name](GEOMETRY / name)
    return folder, geometry.pictures(
        GEOMETRY / f"{name}.safetensors", folder, samples=SAMPLES, length=LENGTH, side=SIDE
    )


@contextmanager
def most_bytes(folder: Path) -> Iterator[Callable[[], int]]:
    """Watch a folder, and tell the most bytes that lay in it."""
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(1):
            most = max(most, sum(_size(path) for path in folder.rglob("*")))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: most
    finally:
        over.set()
        thread.join()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # it was there a moment ago
        return 0


def main() -> None:
    """Measure those that were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["qwen2_vl_2b"])
    parser.add_argument("--seconds", type=float)
    asked = parser.parse_args()
    rows: dict[str, Any] = record.read("compression_memory").get("rows", {})
    for name in asked.names:
        (WORK / name).mkdir(parents=True, exist_ok=True)
        row = llmcompressor() if name == "llmcompressor" else ours(name, asked.seconds)
        if row is None:
            raise SystemExit(STOPPED)
        rows[name] = row
        record.write("compression_memory", {"samples": SAMPLES, "length": LENGTH, "rows": rows})


if __name__ == "__main__":
    main()
