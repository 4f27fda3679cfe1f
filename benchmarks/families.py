"""One tiny model of every family: components found, encoders to W8A8 and decoders to W4, read back where there is no Triptych.

`TRIPTYCH_READER_PYTHON` names the interpreter of an environment made from benchmarks/peers/compressed_tensors.txt. There the folder is
loaded by transformers alone; its outputs must be those of the compressed model in this process.

    TRIPTYCH_READER_PYTHON=.../bin/python python -m benchmarks.families [NAME ...]
"""

import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from benchmarks import record
from triptych import console
from triptych.compress.hub.prepare import HubRequest, prepare
from triptych.compress.hub.verb import compress_folder, identity, run_driver, work_folder
from triptych.compress.journal import Journal
from triptych.errors import TriptychError
from triptych.models.tiny_batch import tiny_batch

TESTS = Path(__file__).parents[1] / "tests"
READER = Path(__file__).parent / "peers" / "read_folder.py"
SAMPLES = 8


def measure(name: str, folder: Path, python: str) -> dict[str, Any]:
    """Compress one family, read it back elsewhere, compare."""
    from families import FAMILIES

    model = FAMILIES[name]()
    model.save_pretrained(folder / "model")
    (folder / "data").mkdir()
    for seed in range(SAMPLES):
        inputs = tiny_batch(model, rows=1, seed=seed).inputs
        tensors = {key: value.contiguous() for key, value in inputs.items() if isinstance(value, Tensor)}
        safetensors.torch.save_file(tensors, folder / "data" / f"{seed}.safetensors")
    request = HubRequest(model=folder / "model", data=folder / "data", out=folder / "small", rows=6, check=2)
    ready = prepare(request)
    run_driver(
        ready, Journal(work_folder(request.out), identity(request, ready))
    )  # from here on the skeleton is the compressed model
    with torch.no_grad():
        output = ready.stream.model(**tensors)
    ours = {key: value for key, value in output.items() if isinstance(value, Tensor) and value.is_floating_point()}
    report = compress_folder(request, command="triptych compress model --data data --out small")
    safetensors.torch.save_file(tensors, folder / "inputs.safetensors")
    command = [
        python,
        str(READER),
        str(folder / "small"),
        str(folder / "inputs.safetensors"),
        str(folder / "outputs.safetensors"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise TriptychError(f"the reader failed: {done.stderr.strip().splitlines()[-1][:300]}")
    theirs = safetensors.torch.load_file(folder / "outputs.safetensors")
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise TriptychError(f"nothing to compare: {sorted(ours)} here, {sorted(theirs)} there")
    far = max(float((ours[k] - theirs[k]).abs().max() / ours[k].abs().max().clamp(min=1e-12)) for k in both)
    return {
        "components": [
            {key: row[key] for key in ("name", "role", "modalities", "blocks", "decision", "dense")}
            for row in report["components"]
        ],
        "smaller": report["ratio"]["bytes"],
        "divergence": report["agreement"]["divergence"],
        "outputs_compared": both,
        "largest_difference": far,
        "equal": far < 1e-4,
    }


def main() -> None:
    """Every family that was named, or all; one that fails says why in its row."""
    sys.path.insert(0, str(TESTS))
    from families import FAMILIES

    python = os.environ["TRIPTYCH_READER_PYTHON"]
    rows = {row["family"]: row for row in record.read("families").get("rows", [])}
    with console.progress("families", len(sys.argv[1:] or FAMILIES), unit="family") as advance:
        for name in sys.argv[1:] or FAMILIES:
            with tempfile.TemporaryDirectory() as folder, console.muted():
                try:
                    found = measure(name, Path(folder), python)
                except Exception as error:  # noqa: BLE001 - a family that fails has its error for a row
                    traceback.print_exc()
                    found = {"error": f"{type(error).__name__}: {error}"[:500], "equal": False}
            rows[name] = {"family": name, **found}
            record.write("families", {"rows": [rows[key] for key in sorted(rows)]})
            advance(1, note=f"{name} {found.get('largest_difference', found.get('error', ''))}")


if __name__ == "__main__":
    main()
