"""Compressing a folder end to end: what is written, what is told, what is refused, and what a kill costs."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from triptych import artifact, console
from triptych.compress.hub.request import HubRequest, read_components, work_folder
from triptych.compress.hub.verb import compress_folder
from triptych.compress.quantize.pack import unpack
from triptych.errors import ArtifactError, ContractBroken, InputError, NumericsError

COMMAND = "triptych compress model --data data --out small"
PLAN = {"decoder": "w4g32", "*.encoder": "w8a8t"}


def request(folder: Path, out: Path, **options: Any) -> HubRequest:
    asked = {"rows": 6, "check": 2, "components": PLAN, **options}
    return HubRequest(model=folder / "model", data=folder / "data", out=out, **asked)


def test_writes_a_folder_that_is_whole_and_smaller(llava: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    report = compress_folder(request(llava, out), command=COMMAND)
    artifact.verify(out)
    assert not work_folder(out).exists()
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert (out / "tokenizer_config.json").read_bytes() == (llava / "model" / "tokenizer_config.json").read_bytes()
    assert COMMAND in (out / "README.md").read_text()
    stored, before = (safetensors.torch.load_file(p / "model.safetensors") for p in (out, llava / "model"))
    assert sum(t.nbytes for t in stored.values()) == report["after"]["bytes"]
    for name, entry in report["layers"].items():
        layer = name.removesuffix(".weight")
        spelled = (layer, layer.replace("model.language_model", "language_model.model"), layer.removeprefix("model."))
        prefix = next(word for word in spelled if f"{word}.weight_scale" in stored)
        scale = stored[f"{prefix}.weight_scale"].float()
        if entry["scheme"] == "w8a8t":
            restored = stored[f"{prefix}.weight"].float() * scale
        else:
            _, columns = stored[f"{prefix}.weight_shape"].tolist()
            codes = unpack(stored[f"{prefix}.weight_packed"], 4, columns).float()
            restored = codes * scale.repeat_interleave(columns // scale.shape[1], 1)
        original = before[f"{prefix}.weight"]
        lost = float((restored - original).square().sum() / original.square().sum())
        assert lost < (1e-4 if entry["scheme"] == "w8a8t" else 0.03), name
    assert [row["component"] for row in report["coverage"]] == ["image.encoder", "image.connector", "decoder"]
    assert report["coverage"][2]["samples"]["image"] < report["coverage"][2]["samples"]["text"] == 6
    assert "lm_head.weight" in report["dense"]


def test_the_same_run_again_reads_what_is_there(llava: Path, tmp_path: Path) -> None:
    first = compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    again = compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    assert {**first, "seconds": None} == {**again, "seconds": None}
    with pytest.raises(ArtifactError, match="seed"):
        compress_folder(request(llava, tmp_path / "small", seed=1), command=COMMAND)


def test_a_broken_promise_is_an_error_and_the_report_is_there(llava: Path, tmp_path: Path) -> None:
    asked = request(
        llava, tmp_path / "small", keep=0.999, components={"*": "w2", "head": "fp32", "text.embedding": "fp32"}
    )
    with pytest.raises(
        ContractBroken, match=r"answers are unchanged.*Choose wider words, give .* more bits \(--component"
    ):
        compress_folder(asked, command=COMMAND)
    assert json.loads((tmp_path / "small" / "report.json").read_text())["contract"]["verdict"] == "broken"


def test_a_dry_run_writes_nothing_and_knows_the_size(llava: Path, tmp_path: Path) -> None:
    told = compress_folder(request(llava, tmp_path / "small"), command=COMMAND, dry_run=True)
    assert not list(tmp_path.iterdir())
    done = compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    assert told["forecast"]["bytes_after"] == pytest.approx(done["after"]["bytes"], rel=0.02)


def test_a_component_that_no_sample_reached_is_an_error(llava: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(4):
        ids = torch.randint(3, 60, (1, 9), generator=torch.Generator().manual_seed(number))
        safetensors.torch.save_file({"input_ids": ids}, tmp_path / "data" / f"{number}.safetensors")
    asked = HubRequest(model=llava / "model", data=tmp_path / "data", out=tmp_path / "small", rows=4, check=0)
    with pytest.raises(InputError, match=r"No calibration sample reached .*Add rows"):
        compress_folder(asked, command=COMMAND)


def test_a_nan_in_a_weight_is_named(llava: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in (llava / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    tensors = safetensors.torch.load_file(model / "model.safetensors")
    name = next(n for n in tensors if n.endswith("layers.1.mlp.down_proj.weight"))
    tensors[name][3, 5] = torch.nan
    safetensors.torch.save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    asked = HubRequest(model=model, data=llava / "data", out=tmp_path / "small", rows=6, check=0)
    with pytest.raises(NumericsError, match=r"layers\.1\.mlp\.down_proj"):
        compress_folder(asked, command=COMMAND)


def test_a_kill_costs_no_finished_block_and_changes_no_byte(llava: Path, tmp_path: Path) -> None:
    def apart(out: Path) -> int:
        child = os.fork()
        if child:
            return child
        try:
            torch.set_num_threads(1)
            console.set_mode(quiet=True)
            compress_folder(request(llava, out), command=COMMAND)
            os._exit(0)
        finally:
            os._exit(1)

    compress_folder(request(llava, tmp_path / "whole" / "small"), command=COMMAND)
    out = tmp_path / "killed" / "small"
    child, kept = apart(out), 0
    while kept < 2:
        assert os.waitpid(child, os.WNOHANG)[0] == 0, "the compression ended before it was killed"
        kept = len(list(work_folder(out).glob("*.safetensors")))
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    parts = [path.name for path in work_folder(out).glob("*.safetensors")]
    assert parts
    assert not out.exists()
    compress_folder(request(llava, out), command=COMMAND)
    for path in (tmp_path / "whole" / "small").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert [path.name for path in out.parent.iterdir()] == ["small"]


def test_words_of_the_command_line() -> None:
    assert read_components(["decoder=w4g64", "*.encoder=w8a8t"]) == {"decoder": "w4g64", "*.encoder": "w8a8t"}
    with pytest.raises(InputError, match="is not NAME=SCHEME"):
        read_components(["decoder"])
