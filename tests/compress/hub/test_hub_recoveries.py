"""What compression does where it cannot do what was asked, and that the report says so; and what it refuses by name."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers as hf
from PIL import Image

import tiny_folders
from families import FAMILIES
from triptych.compress.hub.request import HubRequest
from triptych.compress.hub.verb import compress_folder
from triptych.errors import ArtifactError, InputError
from triptych.models.tiny_batch import tiny_batch

COMMAND = "triptych compress model --data data --out small"


def made(name: str, folder: Path, rows: int = 4) -> HubRequest:
    """A tiny model of a family, and tensors to calibrate it with."""
    model = FAMILIES[name]()
    model.save_pretrained(folder / "model")
    (folder / "data").mkdir()
    for seed in range(rows):
        inputs = {key: value.contiguous() for key, value in tiny_batch(model, rows=1, seed=seed).inputs.items()}
        safetensors.torch.save_file(inputs, folder / "data" / f"{seed}.safetensors")
    return HubRequest(model=folder / "model", data=folder / "data", out=folder / "small", rows=rows, check=0)


def changed(folder: Path, **changes: object) -> None:
    """Other weights: by the end of their name, what makes a new one of the old."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    for ending, change in changes.items():
        name = next(name for name in tensors if name.endswith(ending.replace("__", ".")))
        tensors[name] = change(tensors[name])  # type: ignore[operator]
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_widths_that_no_group_divides_get_another_group(tmp_path: Path) -> None:
    asked = made("siglip2", tmp_path).model_copy(update={"components": {"*.encoder": "w4g32"}})
    report = compress_folder(asked, command=COMMAND)
    lines = [line for line in report["recovered_from"] if "does not divide" in line]
    assert any("image.encoder: 32 does not divide 72 columns; groups of 24" in line for line in lines)
    assert any("32 does not divide 86 columns; one scale a row in place of groups of 32" in line for line in lines)
    assert json.loads((tmp_path / "small" / "report.json").read_text())["recovered_from"] == report["recovered_from"]


def test_channels_that_never_move_are_rounded_and_told(tmp_path: Path) -> None:
    """The decoder's first norm leaves three of its channels at zero, which no second moment knows anything of."""
    asked = made("llava", tmp_path)

    def silence(weight: torch.Tensor) -> torch.Tensor:
        weight[:3] = 0
        return weight

    changed(asked.model, layers__0__input_layernorm__weight=silence)
    report = compress_folder(asked, command=COMMAND)
    line = "decoder: 3 of 64 input channels were always zero: they were rounded to the nearest (3 weights)"
    assert line in report["recovered_from"]


def test_a_constant_channel_is_rounded_like_any_other(tmp_path: Path) -> None:
    """The second norm of ViT's first block gives five to one channel, whatever the picture."""
    asked = made("vit", tmp_path).model_copy(update={"components": {"image.encoder": "w4g32"}})

    def still(weight: torch.Tensor) -> torch.Tensor:
        weight[7] = 0
        return weight

    def five(bias: torch.Tensor) -> torch.Tensor:
        bias[7] = 5
        return bias

    changed(asked.model, layer__0__layernorm_after__weight=still, layer__0__layernorm_after__bias=five)
    report = compress_folder(asked, command=COMMAND)
    assert report["recovered_from"] == []
    assert all(entry["sqnr_db"] > 10 for entry in report["layers"].values())


def test_one_token_makes_second_moments_of_rank_one_and_codes_all_the_same(tmp_path: Path) -> None:
    asked = made("mixtral", tmp_path, rows=1)
    safetensors.torch.save_file({"input_ids": torch.tensor([[5]])}, tmp_path / "data" / "0.safetensors")
    report = compress_folder(asked, command=COMMAND)
    stored = safetensors.torch.load_file(tmp_path / "small" / "model.safetensors")
    assert all(value.isfinite().all() for name, value in stored.items() if name.endswith("weight_scale"))
    assert all(entry["sqnr_db"] > 10 for entry in report["layers"].values())


def test_two_dimensional_inputs_stay_in_float_and_are_told(tmp_path: Path) -> None:
    report = compress_folder(made("qwen2_vl", tmp_path), command=COMMAND)
    assert any(line.startswith("image.encoder: inputs of two axes stay in float") for line in report["recovered_from"])


def test_rows_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    tiny_folders.vit(tmp_path / "model")
    tiny_folders.model_of(tmp_path / "model").save_pretrained(tmp_path / "model")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (tmp_path / "rows.csv").write_text("photo\n" + "red.png\n" * 5 + "torn.png\n" + "red.png\n" * 5)
    asked = HubRequest(model=tmp_path / "model", data=tmp_path / "rows.csv", out=tmp_path / "small", rows=20, check=0)
    report = compress_folder(asked, command=COMMAND)
    assert len(report["recovered_from"]) == len(report["data"]["skipped"])
    assert all("torn.png" in line for line in report["recovered_from"])


def test_a_processor_of_another_size_is_refused_with_both_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    tiny_folders.vit(tmp_path / "model")
    tiny_folders.model_of(tmp_path / "model").save_pretrained(tmp_path / "model")
    hf.ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "model")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    (tmp_path / "rows.csv").write_text("photo\n" + "red.png\n" * 9)
    asked = HubRequest(model=tmp_path / "model", data=tmp_path / "rows.csv", out=tmp_path / "small", rows=4, check=0)
    with pytest.raises(
        InputError, match=r"ViTForImageClassification does not accept a calibration batch .*model's own"
    ):
        compress_folder(asked, command=COMMAND)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("unknown", r"transformers .* cannot read .*config\.json.* install a version"),
        ("code", r"brings code of its own \(AutoModel\), which is not run"),
        ("pickle", r"pytorch_model\.bin is a pickle.* convert it"),
        ("shard", r"The shard .*model\.safetensors is missing"),
    ],
)
def test_folders_that_are_refused_before_any_work(damage: str, message: str, tmp_path: Path) -> None:
    asked = made("vit", tmp_path, rows=1)
    folder, config = asked.model, json.loads((asked.model / "config.json").read_text())
    if damage == "unknown":
        config["model_type"] = "never_seen"
    elif damage == "code":
        config["auto_map"] = {"AutoModel": "own.Own"}
        (folder / "own.py").write_text("raise SystemExit('it ran')")
    elif damage == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    else:
        weight_map = dict.fromkeys(safetensors.torch.load_file(folder / "model.safetensors"), "model.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((InputError, ArtifactError), match=message):
        compress_folder(asked, command=COMMAND)
    assert [path.name for path in tmp_path.iterdir() if path.name not in {"model", "data"}] == []
