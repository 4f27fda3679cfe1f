"""Every family of the catalogue gets a batch that it runs on, whatever its parts are called."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from families import FAMILIES, renamed
from triptych.errors import InputError
from triptych.models.tiny_batch import ModelBatch, tiny_batch

# What each family reads, and how many positions of its language sequence stand for each modality: 9 are words and the end.
EXPECTED: dict[str, tuple[set[str], dict[str, int] | None]] = {
    "clip": ({"image", "text"}, {"text": 9}),
    "siglip2": ({"image", "text"}, {"text": 9}),
    "altclip": ({"image", "text"}, {"text": 9}),
    "clap": ({"audio", "text"}, {"text": 9}),
    "blip_retrieval": ({"image", "text"}, {"text": 9}),
    "blip_question": ({"image", "text"}, {"text": 9}),
    "blip_caption": ({"image", "text"}, {"text": 9}),
    "blip2": ({"image", "text"}, {"text": 9, "image": 6}),
    "instructblip": ({"image", "text"}, {"text": 9, "image": 6}),
    "llava": ({"image", "text"}, {"text": 9, "image": 16}),
    # a base view of 16, and two tiles of 16 side by side whose 4 rows end with a newline
    "llava_next": ({"image", "text"}, {"text": 9, "image": 36}),
    # a base view of 16, and a tile of 4 rows of 4 that each end with a newline; two frames pooled to 4, and a newline
    "llava_onevision": ({"image", "video", "text"}, {"text": 9, "image": 36, "video": 9}),
    # one id opens and one closes each picture, and they count as text
    "qwen2_vl": ({"image", "video", "text"}, {"text": 13, "image": 4, "video": 4}),
    "qwen2_5_vl": ({"image", "video", "text"}, {"text": 13, "image": 4, "video": 4}),
    "qwen3_vl": ({"image", "video", "text"}, {"text": 13, "image": 4, "video": 4}),
    "qwen3_vl_moe": ({"image", "video", "text"}, {"text": 13, "image": 4, "video": 4}),
    "mixtral": ({"text"}, {"text": 9}),
    "idefics3": ({"image", "text"}, {"text": 9, "image": 4}),
    "smolvlm": ({"image", "text"}, {"text": 9, "image": 4}),
    "paligemma": ({"image", "text"}, {"text": 9, "image": 16}),
    "internvl": ({"image", "text"}, {"text": 9, "image": 4}),
    "gemma3": ({"image", "text"}, {"text": 9, "image": 4}),
    "voxtral": ({"audio", "text"}, {"text": 9, "audio": 10}),
    "florence2": ({"image", "text"}, {"text": 9, "image": 17}),
    "whisper": ({"audio", "text"}, {"text": 9}),
    "wav2vec2": ({"audio"}, None),
    "speecht5_recognise": ({"audio", "text"}, {"text": 9}),
    "speecht5_speak": ({"audio", "text"}, {"text": 9}),
    "qwen2_audio": ({"audio", "text"}, {"text": 9, "audio": 10}),
    "qwen2_5_omni": ({"image", "video", "audio", "text"}, {"text": 15, "image": 4, "video": 4, "audio": 16}),
    "vit": ({"image"}, None),
    "detr": ({"image"}, None),
    "segformer": ({"image"}, None),
}


def _outputs(model: nn.Module, batch: ModelBatch) -> list[Tensor]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # one of them keeps a dropout in evaluation
        return [value for value in model(**batch.inputs).to_tuple() if isinstance(value, Tensor)]


def _counted(batch: ModelBatch) -> dict[str, int] | None:
    if batch.tokens is None:
        return None
    return dict(zip(batch.names, batch.tokens[0].bincount(minlength=len(batch.names)).tolist(), strict=True))


def test_every_family_is_expected():
    assert set(EXPECTED) == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gets_a_batch_it_runs_on(name: str):
    model = FAMILIES[name]()
    batch = tiny_batch(model)
    modalities, counts = EXPECTED[name]
    assert set(batch.modality.values()) == modalities
    assert set(batch.modality) <= set(batch.inputs)
    assert _counted(batch) == counts
    outputs = _outputs(model, batch)
    assert all(value.isfinite().all() for value in outputs if value.is_floating_point())


@pytest.mark.parametrize("name", ["clip", "llava_onevision", "qwen2_5_vl", "instructblip", "speecht5_speak", "detr"])
def test_names_of_the_parts_do_not_matter(name: str):
    model = FAMILIES[name]()
    other = renamed(model)
    assert not set(dict(model.named_modules())) & set(dict(other.named_modules())) - {""}
    batch, same = tiny_batch(model), tiny_batch(other)
    assert batch.modality == same.modality
    assert all(torch.equal(batch.inputs[key], same.inputs[key]) for key in batch.inputs)
    for ours, theirs in zip(_outputs(model, batch), _outputs(other, same), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_part_replaced_under_its_new_name_is_the_one_that_runs():
    model = renamed(FAMILIES["vit"]())
    batch = tiny_batch(model)
    name = next(name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    before = _outputs(model, batch)[0]
    model.set_submodule(name, nn.Linear(64, 64))
    assert not torch.equal(before, _outputs(model, batch)[0])


def test_rows_and_seed():
    model = FAMILIES["llava"]()
    three, again, other = (tiny_batch(model, rows=3, seed=seed) for seed in (0, 0, 1))
    assert three.tokens is not None
    assert three.tokens.shape[0] == three.inputs["pixel_values"].shape[0] == 3
    for key in ("pixel_values", "input_ids"):
        assert torch.equal(three.inputs[key], again.inputs[key])
        assert not torch.equal(three.inputs[key], other.inputs[key])
        assert not torch.equal(three.inputs[key][0], three.inputs[key][1])


def test_the_model_and_the_generator_are_left_as_they_were():
    model = FAMILIES["qwen2_vl"]().train()
    state, kept = torch.get_rng_state(), [set(vars(module)) for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    batch = tiny_batch(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert model.model.rope_deltas is None
    assert [set(vars(module)) for module in model.modules()] == kept
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert not any(value.requires_grad for value in batch.inputs.values())


def test_numbers_are_in_the_precision_of_the_model():
    batch = tiny_batch(FAMILIES["clip"]().to(torch.bfloat16))
    assert batch.inputs["pixel_values"].dtype == torch.bfloat16
    assert batch.inputs["input_ids"].dtype == torch.long


class TwoTowers(nn.Module):
    """No config, no Hugging Face: the names of its inputs are all there is."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 8, 8, stride=8)
        self.hear = nn.Conv1d(1, 8, 16, stride=8)
        self.read = nn.Embedding(50, 8)

    def forward(self, image: Tensor, sound: Tensor, ids: Tensor) -> Tensor:
        seen, heard = self.see(image).flatten(2).mean(2), self.hear(sound).mean(2)
        return seen + heard + self.read(ids).mean(1)


def test_a_plain_module_with_telling_names():
    batch = tiny_batch(TwoTowers())
    assert batch.modality == {"image": "image", "sound": "audio", "ids": "text"}
    assert batch.inputs["sound"].shape[:2] == (2, 1)
    assert _counted(batch) == {"text": 8}


class Silent(nn.Module):
    """Its input's name says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Strange(nn.Linear):
    """Reads images of a size that nobody could guess, and asks for one input more."""

    def forward(self, pixel_values: Tensor, camera: Any = None) -> Tensor:
        if pixel_values.shape[-1] != 53:
            raise ValueError(f"The images must be 53 wide, and camera is {camera}.")
        return super().forward(pixel_values)


def test_what_cannot_be_guessed_is_named():
    with pytest.raises(InputError, match=r"'x' of Silent .*name does not say") as error:
        tiny_batch(Silent())
    assert "ModelBatch whose inputs hold 'x'" in error.value.next
    with pytest.raises(InputError, match=r"'pixel_values' and 'camera' of Strange .*must be 53 wide"):
        tiny_batch(Strange(53, 2))
    with pytest.raises(InputError, match="'inputs'"):
        tiny_batch(NoInputs())


class NoInputs(nn.Module):
    def forward(self) -> Tensor:
        return torch.zeros(1)


def test_a_processor_beside_the_model_is_asked_when_guessing_fails(tmp_path):
    from transformers import ViTImageProcessor

    ViTImageProcessor(size={"height": 53, "width": 53}).save_pretrained(tmp_path)
    batch = tiny_batch(Strange(53, 2), tmp_path)
    assert batch.inputs["pixel_values"].shape == (2, 3, 53, 53)
    assert batch.modality == {"pixel_values": "image"}


def test_a_folder_without_a_processor_says_so(tmp_path):
    with pytest.raises(InputError, match="no processor that loads"):
        tiny_batch(Strange(53, 2), tmp_path)
