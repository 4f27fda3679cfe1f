"""`triptych export` of folders: which format is for which model, and decoders that run from the folder's own codes."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import tiny_folders
from families import FAMILIES
from triptych import artifact
from triptych.compress.hub.request import HubRequest
from triptych.compress.hub.verb import compress_folder
from triptych.engines.generate import generate
from triptych.errors import InputError
from triptych.export.verb import export_model
from triptych.models.folder import load, open_folder
from triptych.models.rounded import RoundedEntry
from triptych.models.show import describe

pytest.importorskip("onnxruntime")

COMMAND = "triptych compress model --data rows.safetensors --component decoder=w4g16 --out small"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that sees, and the same rounded: its vision tower to eight bits, its decoder to four."""
    root = tmp_path_factory.mktemp("llava")
    (root / "model").mkdir()
    tiny_folders.llava(root / "model")
    tiny_folders.model_of(root / "model").save_pretrained(root / "model")
    ids = torch.randint(3, 60, (6, 24), generator=torch.Generator().manual_seed(0))
    ids[:, 1:17] = tiny_folders.IMAGE
    save_file({"input_ids": ids, "pixel_values": torch.randn(6, 3, 16, 16)}, root / "rows.safetensors")
    asked = HubRequest(model=root / "model", data=root / "rows.safetensors", out=root / "small", rows=6, check=0)
    compress_folder(asked.model_copy(update={"components": {"decoder": "w4g16"}}), command=COMMAND)
    return root


def test_all_but_the_weights_is_kept_byte_for_byte_and_the_card_tells_the_rest(folders: Path) -> None:
    small, report = folders / "small", json.loads((folders / "small" / "report.json").read_text())
    kept = {path.name for path in (folders / "model").iterdir()} - {"config.json", "model.safetensors"}
    assert {"tokenizer.json", "processor_config.json", "chat_template.jinja", "generation_config.json"} <= kept
    for name in kept:
        assert (small / name).read_bytes() == (folders / "model" / name).read_bytes(), name
    said, now = (json.loads((folder / "config.json").read_text()) for folder in (folders / "model", small))
    assert {name: value for name, value in now.items() if name != "quantization_config"} == said
    card = (small / "README.md").read_text()
    assert f"```sh\n{COMMAND}\n```" in card
    assert report["data"]["sha256"] in card
    assert f"| bytes of tensors | {report['before']['bytes']:,} | {report['after']['bytes']:,} |" in card
    assert "decoder:\n  w4g16: 14\n" in card
    assert re.search("a look-up table: .*`model.language_model.embed_tokens`", card)


@pytest.mark.parametrize("name", ["model", "small"])
def test_a_decoder_writes_what_the_model_does_with_its_processor_beside_it(
    name: str, folders: Path, tmp_path: Path
) -> None:
    export_model(folders / name, "onnx", tmp_path / "out")
    artifact.verify(tmp_path / "out")
    model, codes = load(open_folder(folders / name, rounded=True))
    assert bool(codes) == (name == "small")
    ids = torch.randint(3, 60, (1, 8), generator=torch.Generator().manual_seed(1))
    made = generate(tmp_path / "out", ids, max_new_tokens=4)
    with torch.no_grad():
        first = model(input_ids=ids).logits[0, -1].argmax()
    assert made[0, 0] == first
    for file in ("tokenizer.json", "processor_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / file).read_bytes() == (folders / "model" / file).read_bytes()
    assert isinstance(hf.AutoProcessor.from_pretrained(tmp_path / "out"), hf.LlavaProcessor)
    export_model(folders / name, "onnx", tmp_path / "out")  # whole already


def test_with_rows_the_folder_reads_pictures_too(folders: Path, tmp_path: Path) -> None:
    export_model(folders / "small", "onnx", tmp_path / "out", folders / "rows.safetensors")
    model, _ = load(open_folder(folders / "small", rounded=True))
    row = {name: value[:1] for name, value in load_file(folders / "rows.safetensors").items()}
    made = generate(
        tmp_path / "out", row["input_ids"], pictures={"pixel_values": row["pixel_values"]}, max_new_tokens=1
    )
    with torch.no_grad():
        logits = model(**row).logits[0, -1]
    assert logits[made[0, 0]] > logits.max() - 0.1 * logits.std()  # the decoder rounds its inputs


def test_a_rounded_folder_reads_as_what_its_codes_stand_for(folders: Path) -> None:
    opened = open_folder(folders / "small", rounded=True)
    rounded = {name: entry for name, entry in opened.entries.items() if isinstance(entry, RoundedEntry)}
    dense = open_folder(folders / "model").entries
    assert dense.keys() == opened.entries.keys()
    for name, entry in rounded.items():
        weight, restored = dense[name].read(), entry.read()
        bits = entry.scheme.weight.bits if entry.scheme.weight else 0
        assert (restored - weight).norm() < weight.norm() * (0.02 if bits == 8 else 0.3)
        assert torch.equal(entry.read(3, 5), restored[3:8])
        assert entry.bytes < dense[name].bytes / 3
    before, after = describe(folders / "model"), describe(folders / "small")
    assert [part["name"] for part in before["components"]] == [part["name"] for part in after["components"]]
    assert after["bytes"] == opened.bytes < before["bytes"]


def test_each_format_is_for_its_own_models(folders: Path, tiny_trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"makes no words one by one.*--to openvino"):
        export_model(tiny_trained.loaded.folder, "onnx", tmp_path / "out")
    with pytest.raises(InputError, match=r"was not built here.*--to onnx"):
        export_model(folders / "model", "openvino", tmp_path / "out")
    with pytest.raises(InputError, match=r"no export to 'gguf'.*openvino, onnx"):
        export_model(folders / "model", "gguf", tmp_path / "out")
    FAMILIES["clip"]().save_pretrained(tmp_path / "clip")
    with pytest.raises(InputError, match="CLIPModel cannot be exported for cached generation"):
        export_model(tmp_path / "clip", "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
