"""A tiny model of every family: compressed by its components, read back where there is no Triptych, outputs compared.

Encoders at eight bits with rounded inputs, decoders at four bits. The reader is an environment made from
`peers/compressed_tensors.txt`; what stayed dense says why. A model that Triptych built has parts that no config of
transformers can say: its folder is read by `triptych.load` in a process of its own.

    python -m benchmarks.peers.environments compressed_tensors
    TRIPTYCH_READER_PYTHON=runs/peers/compressed_tensors/bin/python python -m benchmarks.families [NAME ...]
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from benchmarks import odd_one_out, record
from triptych import artifact, console
from triptych.compress.hub.prepare import prepare
from triptych.compress.hub.request import HubRequest, work_folder
from triptych.compress.hub.verb import compress_folder, identity, run_driver
from triptych.compress.journal import Journal
from triptych.compress.passes import State, Surroundings, quantise
from triptych.compress.plan import Quantise
from triptych.compress.quantize.layers import weights
from triptych.errors import TriptychError
from triptych.evaluate.size import size_bytes
from triptych.models.components import components
from triptych.models.store import write_model
from triptych.models.tiny_batch import tiny_batch

TESTS = Path(__file__).parents[1] / "tests"
READER = Path(__file__).parent / "peers" / "read_folder.py"
SAMPLES = 8
OWN = "triptych"
LATER = {"florence2", "voxtral"}  # named by nobody before every line that compresses and writes them was there
OWN_READER = """
import sys, safetensors.torch, torch, triptych
from pathlib import Path
inputs = safetensors.torch.load_file(sys.argv[2])
presence = inputs.pop("presence")
with torch.no_grad():
    logits = triptych.load(Path(sys.argv[1])).model(inputs, presence).logits
safetensors.torch.save_file({"logits": logits}, sys.argv[3])
"""


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
    torch.manual_seed(0)  # as the reader does: one family keeps a dropout in evaluation
    with torch.no_grad():
        output = ready.stream.model(**tensors)
    ours = {key: value for key, value in output.items() if isinstance(value, Tensor) and value.is_floating_point()}
    report = compress_folder(request, command="triptych compress model --data data --out small")
    theirs = read_back([python, str(READER)], folder, tensors)
    return {
        "components": [
            {key: row[key] for key in ("name", "role", "modalities", "blocks", "decision", "dense")}
            for row in report["components"]
        ],
        "read_by": "transformers and compressed-tensors, no Triptych",
        "named_later": name in LATER,
        "smaller": report["ratio"]["bytes"],
        "divergence": report["agreement"]["divergence"],
        **compared(ours, theirs),
    }


def measure_own(folder: Path) -> dict[str, Any]:
    """A model of pictures, voices and words that was built here; its head stays dense."""
    trained, _ = odd_one_out.trained("families", odd_one_out.recipe(odd_one_out.data(), steps=1))
    model, rows = trained.loaded.model, odd_one_out.held_out(trained, "train")
    parts, batch = components(model), odd_one_out.held_out(trained).batch(range(4))
    owner = {name: next(part for part in parts if part.owns(name)) for name, _ in model.named_parameters()}
    layers = {
        name: "w8" if view.kind in {"embedding", "recurrent"} else "w8a8"
        for name, view in weights(model).items()
        if owner[name].role != "head"
    }
    state = State(model)
    quantise(state, Quantise(layers=layers, rows=64), Surroundings(model, rows, rows))
    with artifact.publish(folder / "small", {"kind": "families"}) as staging:
        write_model(staging, model, trained.loaded.processor, state.quantized)
    with torch.no_grad():
        ours = {"logits": model(batch.inputs, batch.presence).logits}
    theirs = read_back([sys.executable, "-c", OWN_READER], folder, {**batch.inputs, "presence": batch.presence})
    dense = [n for n, p in model.named_parameters() if p.dim() > 1 and n not in layers]
    reasons = {n: "left dense by the plan" if n in weights(model) else "no weight of a layer" for n in dense}
    return {
        "components": [
            {
                "name": part.name,
                "role": part.role,
                "modalities": part.modalities,
                "blocks": len(part.blocks),
                "decision": Counter(word for name, word in layers.items() if owner[name] is part),
                "dense": Counter(why for name, why in reasons.items() if owner[name] is part),
            }
            for part in parts
        ],
        "read_by": "`triptych.load` in a fresh process: no config of transformers can say what its parts are",
        "named_later": False,
        "smaller": size_bytes(odd_one_out.WORK / "families") / size_bytes(folder / "small"),
        **compared(ours, theirs),
    }


def read_back(command: list[str], folder: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the compressed folder, loaded in a process of its own, makes of the inputs."""
    files = [folder / "small", folder / "inputs.safetensors", folder / "outputs.safetensors"]
    safetensors.torch.save_file(dict(inputs), files[1])
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TriptychError(f"the reader failed: {done.stderr.strip().splitlines()[-1][:300]}")
    return safetensors.torch.load_file(files[2])


def versions(python: str) -> dict[str, str]:
    """What the reader's environment holds."""
    asked = ("torch", "transformers", "compressed-tensors")
    code = f"import json, importlib.metadata as m; print(json.dumps({{name: m.version(name) for name in {asked}}}))"
    found: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code]))
    return found


def compared(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Any]:
    """The largest difference of any output, as a share of the largest number in that output."""
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise TriptychError(f"nothing to compare: {sorted(ours)} here, {sorted(theirs)} there")
    far = max(float((ours[k] - theirs[k]).abs().max() / ours[k].abs().max().clamp(min=1e-12)) for k in both)
    return {"outputs_compared": both, "largest_difference": far, "equal": far < 1e-4}


def main() -> None:
    """Every family that was named, or all; one that fails says why in its row."""
    sys.path.insert(0, str(TESTS))
    from families import FAMILIES

    python = os.environ["TRIPTYCH_READER_PYTHON"]
    reader = versions(python)
    rows = {row["family"]: row for row in record.read("families").get("rows", [])}
    names = sys.argv[1:] or [*FAMILIES, OWN]
    with console.progress("families", len(names), unit="model") as advance:
        for name in names:
            with tempfile.TemporaryDirectory() as folder, console.muted():
                try:
                    own = name == OWN
                    found = measure_own(Path(folder)) if own else measure(name, Path(folder), python)
                except Exception as error:  # noqa: BLE001 - a family that fails has its error for a row
                    traceback.print_exc()
                    found = {"error": f"{type(error).__name__}: {error}"[:500], "equal": False}
            rows[name] = {"family": name, **found}
            record.write("families", {"reader": reader, "rows": [rows[key] for key in sorted(rows)]})
            advance(1, note=f"{name} {found.get('largest_difference', found.get('error', ''))}")


if __name__ == "__main__":
    main()
