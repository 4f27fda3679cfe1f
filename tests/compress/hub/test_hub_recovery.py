"""Recovery of a folder: it helps, it resumes to the same bytes, and a model that is too large is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from triptych.compress.hub import recovery
from triptych.compress.hub.prepare import prepare
from triptych.compress.hub.request import HubRequest, work_folder
from triptych.compress.hub.verb import compress_folder, identity, run_driver
from triptych.compress.journal import Journal
from triptych.errors import InputError

COMMAND = "triptych compress model --data data --recover --out small"
PLAN = {"decoder": "w2g32", "*.connector": "w2", "*.encoder": "w8a8t"}


def request(folder: Path, out: Path, **options: Any) -> HubRequest:
    asked = {"rows": 6, "check": 2, "components": PLAN, "method": "descent", "recover": True, **options}
    return HubRequest(model=folder / "model", data=folder / "data", out=out, **asked)


def tensors(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_codes_scales_and_norms_move_and_are_written(llava: Path, tmp_path: Path) -> None:
    picture = safetensors.torch.load_file(llava / "data" / "1.safetensors")
    draw = torch.Generator().manual_seed(1)
    words = torch.randint(3, 60, (48, 1, 12), generator=draw)
    pixels = torch.randn(48, *picture["pixel_values"].shape, generator=draw)
    (tmp_path / "data").mkdir()
    for number, (said, seen) in enumerate(zip(words, pixels, strict=True)):
        ids = torch.cat([picture["input_ids"][:, :-12], said], 1)
        path = tmp_path / "data" / f"{number}.safetensors"
        safetensors.torch.save_file({"input_ids": ids, "pixel_values": seen}, path)
    many = {"data": tmp_path / "data", "rows": 44, "check": 4, "method": "gptq"}  # which leaves something to win
    plain = request(llava, tmp_path / "plain", recover=False).model_copy(update=many)
    compress_folder(plain, command=COMMAND)
    report = compress_folder(request(llava, tmp_path / "small").model_copy(update=many), command=COMMAND)
    before, after = (safetensors.torch.load_file(tmp_path / out / "model.safetensors") for out in ("plain", "small"))
    assert {n: (t.shape, t.dtype) for n, t in before.items()} == {n: (t.shape, t.dtype) for n, t in after.items()}
    moved = {name for name in before if not before[name].equal(after[name])}
    assert any(name.endswith("weight_packed") for name in moved)
    assert any(name.endswith("layernorm.weight") for name in moved)
    assert not any("vision_tower" in name and name.endswith("proj.weight") for name in moved)  # of rounded inputs
    assert any("recovered" in note for entry in report["layers"].values() for note in entry["notes"])


def test_killed_before_the_end_it_comes_to_the_same_bytes(llava: Path, tmp_path: Path) -> None:
    compress_folder(request(llava, tmp_path / "whole"), command=COMMAND)
    asked = request(llava, tmp_path / "killed")
    ready = prepare(asked)
    journal = Journal(work_folder(asked.out), identity(asked, ready))
    run_driver(ready, journal)
    parts = sorted(path.name for path in recovery.recovered(asked, ready, journal).work.glob("*.safetensors"))
    (journal.work / "recovered" / parts[-1]).unlink()  # as if killed before the last block was journalled
    compress_folder(asked, command=COMMAND)
    assert tensors(tmp_path / "killed") == tensors(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_a_model_that_does_not_fit_is_refused(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "BYTES", 1 << 60)
    with pytest.raises(InputError, match="trains the whole model in memory"):
        compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    shutil.rmtree(work_folder(tmp_path / "small"))
