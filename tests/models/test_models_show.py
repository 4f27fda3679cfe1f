import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers as hf
from PIL import Image

import tiny_folders
from families import FAMILIES
from triptych.errors import InputError
from triptych.models.show import describe, show

CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class OwnConfig(PretrainedConfig):
    model_type = "own"

class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.first, self.last = torch.nn.Conv2d(3, 4, 2), torch.nn.Linear(4, 2)
        self.post_init()

    def forward(self, pixel_values):
        return self.last(self.first(pixel_values).mean((2, 3)))
"""


def test_a_hugging_face_folder_is_described_from_its_files_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FAMILIES["whisper"]()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    description = json.loads(json.dumps(describe(tmp_path)))
    parts = {part["name"]: part for part in description["components"]}
    assert list(parts) == ["audio.encoder", "text.embedding", "decoder", "head"]
    assert description["parameters"] == sum(p.numel() for p in model.parameters())
    assert description["bytes"] == 2 * description["parameters"]  # as stored, though it runs in float32
    assert sum(part["flops_share"] for part in parts.values()) == pytest.approx(1)
    assert sum(part["latency_share"] for part in parts.values()) == pytest.approx(1)
    assert parts["decoder"]["blocks"] == ["model.decoder.layers.0", "model.decoder.layers.1"]
    assert {"component": "decoder", "kind": "Linear", "shape": [64, 64], "count": 16} in description["shapes"]
    capsys.readouterr()
    show(description)
    assert "head uses a weight of text.embedding" in capsys.readouterr().out


def test_code_of_the_folder_runs_only_where_it_was_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(CODE)
    mapped = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    config = {"model_type": "own", "architectures": ["OwnModel"], "auto_map": mapped}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"first.weight": (4, 3, 2, 2), "first.bias": (4,), "last.weight": (2, 4), "last.bias": (2,)}
    values = {name: torch.randn(shape) for name, shape in tensors.items()}
    safetensors.torch.save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="brings code of its own"):
        describe(folder)
    description = describe(folder, trust_remote_code=True)
    assert description["parameters"] == sum(value.numel() for value in values.values())
    assert [part["name"] for part in description["components"]] == ["image.encoder", "head"]
    safetensors.torch.save_file({"pixel_values": torch.randn(1, 3, 8, 8)}, tmp_path / "rows.safetensors")
    given = describe(folder, tmp_path / "rows.safetensors", trust_remote_code=True)
    assert 0 < given["macs"] < description["macs"]


def test_a_pickle_is_refused_with_how_to_convert_it(tmp_path: Path) -> None:
    FAMILIES["vit"]().config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["ViTForImageClassification"]}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle.* convert it"):
        describe(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit")
    mapped = {**config, "auto_map": {"AutoModel": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(mapped))
    with pytest.raises(InputError, match="is a pickle"):
        describe(tmp_path, trust_remote_code=True)


def test_rows_of_data_are_read_by_the_models_own_processor(tmp_path: Path) -> None:
    tiny_folders.llava(tmp_path)
    tiny_folders.model_of(tmp_path).save_pretrained(tmp_path)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    (tmp_path / "rows.csv").write_text("photo,question,answer\n" + "red.png,what colour is this,red\n" * 9)
    made_up, seen = describe(tmp_path), describe(tmp_path, tmp_path / "rows.csv")
    parts = {part["name"]: part for part in seen["components"]}
    assert list(parts) == [part["name"] for part in made_up["components"]]
    assert seen["macs"] != made_up["macs"]
    assert sum(part["flops"] for part in parts.values()) == 2 * seen["macs"]
    assert all(part["bytes"] and part["latency_share"] for part in parts.values())


def test_an_input_that_cannot_be_guessed_is_named_and_can_be_given(tmp_path: Path) -> None:
    text = {**tiny_folders.LAYERS, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
    vision = {**tiny_folders.LAYERS, "d_kv": 16, "d_ff": 64, "patch_embed_hidden_size": 48, "seq_len": 16}
    config = hf.Pix2StructConfig(text_config={**text, "decoder_start_token_id": 0}, vision_config=vision)
    hf.Pix2StructForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"'flattened_patches'.*--data"):
        describe(tmp_path)
    places = torch.cartesian_prod(torch.arange(4), torch.arange(4))[None]
    patches = torch.cat([places, torch.randn(1, 16, 48)], dim=2)
    given = {"flattened_patches": patches, "decoder_input_ids": torch.randint(3, 60, (1, 8))}
    safetensors.torch.save_file(given, tmp_path.with_suffix(".safetensors"))
    found = describe(tmp_path, tmp_path.with_suffix(".safetensors"))
    assert [part["name"] for part in found["components"]] == ["image.encoder", "text.embedding", "decoder", "head"]


def test_rows_of_another_models_processor_are_refused(tmp_path: Path) -> None:
    tiny_folders.vit(tmp_path)
    tiny_folders.model_of(tmp_path).save_pretrained(tmp_path)
    hf.ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    (tmp_path / "rows.csv").write_text("photo\n" + "red.png\n" * 9)
    with pytest.raises(InputError, match=r"ViTForImageClassification does not accept a row of the data .*model's own"):
        describe(tmp_path, tmp_path / "rows.csv")
