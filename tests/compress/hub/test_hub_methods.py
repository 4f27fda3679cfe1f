"""Every way of choosing codes, through a whole folder: what is written means the same to a reader without Triptych."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from triptych.compress.hub.prepare import HubRequest, prepare
from triptych.compress.hub.verb import compress_folder, identity, run_driver, work_folder
from triptych.compress.journal import Journal
from triptych.errors import InputError

COMMAND = "triptych compress model --data data --out small"
READER = os.environ.get("TRIPTYCH_READER_PYTHON")
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "peers" / "read_folder.py"
WAYS: dict[str, dict[str, Any]] = {
    "autoround": {"method": "autoround", "components": {"decoder": "w2g32", "*.encoder": "w3g32"}},
    "gptaq": {"method": "gptaq", "components": {"decoder": "w2g32", "*.encoder": "w3g32"}},
}


def request(folder: Path, out: Path, **options: Any) -> HubRequest:
    return HubRequest(model=folder / "model", data=folder / "data", out=out, **{"rows": 6, "check": 2, **options})


def answers_after(asked: HubRequest, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the compressed model answers in this process."""
    ready = prepare(asked)
    run_driver(ready, Journal(work_folder(asked.out), identity(asked, ready)))
    with torch.no_grad():
        output = ready.stream.model(**inputs)
    return {name: x for name, x in output.items() if isinstance(x, Tensor) and x.is_floating_point()}


@pytest.mark.parametrize("way", WAYS)
def test_the_folder_answers_as_the_model_that_was_compressed(llava: Path, tmp_path: Path, way: str) -> None:
    asked = request(llava, tmp_path / "small", **WAYS[way])
    inputs = safetensors.torch.load_file(llava / "data" / "1.safetensors")
    ours = answers_after(asked, inputs)
    report = compress_folder(asked, command=COMMAND)
    assert report["agreement"]["divergence"] < 0.01
    if not READER:
        pytest.skip("TRIPTYCH_READER_PYTHON names no environment of benchmarks/peers/compressed_tensors.txt")
    safetensors.torch.save_file(inputs, tmp_path / "inputs.safetensors")
    command = [READER, SCRIPT, asked.out, tmp_path / "inputs.safetensors", tmp_path / "outputs.safetensors"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = safetensors.torch.load_file(tmp_path / "outputs.safetensors")
    for name in ours.keys() & theirs.keys():
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-4, atol=1e-5)
    assert "logits" in ours.keys() & theirs.keys()


def test_autoround_learns_blocks_and_leaves_single_layers_to_gptq(llava: Path, tmp_path: Path) -> None:
    plan = {"decoder": "w2g32", "*.connector": "w3"}
    found = compress_folder(request(llava, tmp_path / "small", method="autoround", components=plan), command=COMMAND)[
        "layers"
    ]
    methods = {name: entry["method"] for name, entry in found.items() if entry["scheme"] != "w8a8t"}
    assert {m for name, m in methods.items() if ".layers." in name} == {"autoround"}
    assert {m for name, m in methods.items() if "projector" in name} == {"gptq"}


def test_a_method_that_is_not_there_is_named_before_any_work(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no method 'gptz'.*autoround, .*gptaq, gptq, hqq"):
        compress_folder(request(llava, tmp_path / "small", method="gptz"), command=COMMAND)
