"""Folders opened without their weights, and models that run while their weights stay on disk."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from families import FAMILIES
from triptych import artifact
from triptych.errors import ArtifactError, InputError
from triptych.models.folder import find_weights, open_folder, skeleton
from triptych.models.stream import Stream


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    FAMILIES["clip"]().save_pretrained(path)
    return path


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_every_parameter_is_found_with_its_value(saved: Path) -> None:
    model, folder = FAMILIES["clip"](), open_folder(saved)
    empty = skeleton(folder)
    assert all(parameter.is_meta for parameter in empty.parameters())
    weights = find_weights(folder, empty)
    assert not weights.unused
    for name, parameter in model.named_parameters():
        assert torch.equal(weights.read(name), parameter)


def test_streams_and_answers_alike(saved: Path) -> None:
    model, folder = FAMILIES["clip"](), open_folder(saved)
    empty = skeleton(folder)
    stream = Stream(empty, find_weights(folder, empty), resident=0)
    side = model.config.vision_config.image_size
    inputs = {"input_ids": torch.randint(3, 60, (2, 7)), "pixel_values": torch.randn(2, 3, side, side)}
    stream.settle(inputs)
    assert any(isinstance(m, nn.Embedding) for m in stream.streamed.values())
    with torch.no_grad():
        assert torch.equal(empty(**inputs).logits_per_image, model(**inputs).logits_per_image)
    assert all(empty.get_parameter(name).is_meta for name in stream.streamed)


def test_a_replaced_weight_is_used_until_the_end(saved: Path) -> None:
    folder = open_folder(saved)
    empty = skeleton(folder)
    stream = Stream(empty, find_weights(folder, empty), resident=0)
    name = next(n for n, m in stream.streamed.items() if isinstance(m, nn.Linear))
    stream.replace(name, lambda _: torch.zeros(stream.model_shape(name)))
    layer = stream.streamed[name]
    with torch.no_grad():
        out = layer(torch.randn(3, stream.model_shape(name)[1]))
    bias = layer.bias if layer.bias is not None else torch.zeros(())
    assert torch.equal(out, bias.expand_as(out))


def test_names_that_share_a_tensor_still_do_after_a_pass_and_while_others_are_held(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=64, tie_word_embeddings=True)).save_pretrained(tmp_path)
    folder = open_folder(tmp_path)
    empty = skeleton(folder)
    tied = {n for n, _ in empty.named_parameters(remove_duplicate=False)} - {n for n, _ in empty.named_parameters()}
    stream = Stream(empty, find_weights(folder, empty), resident=0)
    inputs = {"input_ids": torch.randint(3, 60, (1, 7))}
    stream.settle(inputs)
    with stream.held(1 << 20), torch.no_grad():
        held = {name for name in stream.streamed if not empty.get_parameter(name).is_meta}
        empty(**inputs)
        assert held == {
            name for name in stream.streamed if "layers" in name
        }  # not the table, nor what shares its tensor
    with stream.held(1 << 10):
        assert all(empty.get_parameter(name).is_meta for name in stream.streamed)
    assert tied
    assert tied <= stream.streamed.keys()
    assert tied == {n for n, _ in empty.named_parameters(remove_duplicate=False)} - {
        n for n, _ in empty.named_parameters()
    }


class Reader(nn.Module):
    """Reads the weight of a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.inner.weight)


def test_a_weight_that_is_read_without_a_call_stays(saved: Path) -> None:
    class Disk:
        dtype = torch.float32

        def read(self, name: str) -> torch.Tensor:
            return torch.full((8, 8) if name.endswith("weight") else (8,), 2.0)

        def parts(self, name: str, count: int) -> Iterator[torch.Tensor]:
            return iter(self.read(name).split(count))

        def rows(self, name: str, which: torch.Tensor) -> torch.Tensor:
            return self.read(name)[which]

        def entry(self, name: str) -> None:  # noqa: ARG002 - all of it is made here
            return None

    model = Reader().to("meta")
    stream = Stream(model, Disk(), resident=0)
    assert list(stream.streamed) == ["inner.weight"]
    stream.settle({"x": torch.ones(1, 8)})
    assert not stream.streamed
    assert torch.equal(model(torch.ones(1, 8)), torch.full((1, 8), 16.0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "never_seen"}, "cannot read"),
        ({"architectures": ["NoSuchModel"]}, "NoSuchModel"),
        ({"architectures": None}, "None"),
        ({"auto_map": {"AutoModel": "modeling.Evil"}}, "brings code of its own"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantised already \(gptq\)"),
    ],
)
def test_configs_that_are_refused(copy: Path, values: dict[str, object], message: str) -> None:
    change(copy, **values)
    with pytest.raises(InputError, match=message):
        open_folder(copy)


def test_a_config_of_another_model_is_refused_by_the_name_of_the_tensor(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    change(copy, projection_dim=config["projection_dim"] * 2)
    folder = open_folder(copy)
    with pytest.raises(ArtifactError, match=r"projection.*has the shape"):
        find_weights(folder, skeleton(folder))


def test_a_missing_tensor_is_named(copy: Path) -> None:
    import safetensors.torch

    tensors = safetensors.torch.load_file(copy / "model.safetensors")
    lost = tensors.pop("visual_projection.weight")
    assert lost.numel()
    safetensors.torch.save_file(tensors, copy / "model.safetensors")
    folder = open_folder(copy)
    with pytest.raises(ArtifactError, match=r"visual_projection\.weight"):
        find_weights(folder, skeleton(folder))


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json"):
        open_folder(tmp_path)


def test_a_config_that_cuts_blocks_off_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    change(copy, text_config={**config["text_config"], "num_hidden_layers": 1})
    folder = open_folder(copy)
    with pytest.raises(
        ArtifactError, match=r"stores text_model\.\S*layers\.1\.\S*, but the config of .* makes no place"
    ):
        find_weights(folder, skeleton(folder))


def test_a_config_that_contradicts_itself_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    change(copy, text_config={**config["text_config"], "hidden_size": 33})
    with pytest.raises(InputError, match=r"config\.json"):
        skeleton(open_folder(copy))


def test_what_triptych_wrote_is_held_against_its_manifest(saved: Path, tmp_path: Path) -> None:
    with artifact.publish(tmp_path / "model", {}) as staging:
        for file in saved.iterdir():
            (staging / file.name).write_bytes(file.read_bytes())
    open_folder(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged or was edited"):
        open_folder(tmp_path / "model")
