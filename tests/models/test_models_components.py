import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from families import FAMILIES, renamed
from triptych.models.components import Component, components, tensor_bytes
from triptych.models.fusion_model import FusionConfig, FusionModel
from triptych.models.tiny_batch import ModelBatch, tiny_batch

PAIR = "image.encoder/2 image.connector text.embedding text.encoder/2 text.connector head"
SPOKEN = "text.embedding image.encoder/2 image.connector decoder/2 head"
EXPECTED = {  # in the order of the flow; with the number of blocks
    "llava": SPOKEN,
    "llava_next": SPOKEN,
    "llava_onevision": SPOKEN,
    "qwen2_vl": SPOKEN,
    "qwen2_5_vl": SPOKEN,
    "qwen3_vl": SPOKEN,
    "qwen3_vl_moe": SPOKEN,
    "mixtral": "text.embedding decoder/2 head",
    "idefics3": SPOKEN,
    "smolvlm": SPOKEN,
    "paligemma": SPOKEN,
    "internvl": SPOKEN,
    "gemma3": SPOKEN,
    "qwen2_audio": "text.embedding audio.encoder/2 audio.connector decoder/2 head",
    "qwen2_5_omni": "text.embedding audio.encoder/2 audio.connector image.encoder/2 image.connector decoder/2 head",
    "clip": PAIR,
    "siglip2": PAIR,
    "altclip": "image.encoder/2 text.embedding text.encoder/2 text.connector image.connector head",
    "clap": "audio.encoder/2 text.embedding text.encoder/2 text.connector audio.connector head",
    "blip_retrieval": "image.encoder/2 text.embedding decoder/2 head unused",
    "blip_question": "image.encoder/2 text.embedding fusion/2 text.embedding_2 decoder/2 head",
    "blip_caption": "image.encoder/2 text.embedding decoder/2 head",
    "blip2": "image.encoder/2 image.connector/2 text.embedding decoder/2 head",
    "instructblip": "image.encoder/2 text.embedding fusion/2 connector text.embedding_2 fusion_2/2 decoder/2 head",
    "voxtral": "text.embedding audio.encoder/2 audio.connector decoder/2 head",
    "florence2": "text.embedding image.encoder/2 image.connector fusion/2 decoder/2 head",
    "whisper": "audio.encoder/2 text.embedding decoder/2 head",
    "wav2vec2": "audio.encoder/4 head",
    "speecht5_recognise": "audio.encoder/4 text.embedding decoder/2 head",
    "speecht5_speak": "text.embedding text.encoder/2 audio.embedding decoder/2 head/2",
    "vit": "image.encoder/2 head",
    "detr": "image.encoder/4 decoder/2 head",
    "segformer": "image.encoder/2 head",
}


def said(parts: list[Component]) -> str:
    return " ".join(part.name + (f"/{len(part.blocks)}" if part.blocks else "") for part in parts)


def nameless(model: PreTrainedModel) -> PreTrainedModel:
    """Every module renamed; transformers records hidden states by what a class is printed as, so that stays."""
    other = renamed(model)
    for kind in {type(module) for module in other.modules()}:
        if kind.__name__ == "Part":
            kind.__module__, kind.__qualname__ = kind.__mro__[1].__module__, kind.__mro__[1].__qualname__
    return other


def found(name: str) -> dict[str, Component]:
    model = FAMILIES[name]()
    return {part.name: part for part in components(model, tiny_batch(model))}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_components_of_a_family_whose_every_part_was_renamed(name: str) -> None:
    batch, model = tiny_batch(FAMILIES[name]()), nameless(FAMILIES[name]())
    parts = components(model, batch)
    assert said(parts) == EXPECTED[name]
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in model.parameters())
    for tensor in model.state_dict():
        assert sum(part.owns(tensor) for part in parts) == 1, tensor
    for part in parts:
        assert all(part.owns(f"{block}.x") for block in part.blocks)
        assert (part.role == "unused") == (not part.modalities)


def test_what_belongs_where_in_clip() -> None:
    parts = found("clip")
    assert parts["image.encoder"].prefixes == ("vision_model",)
    assert parts["image.encoder"].blocks == tuple(f"vision_model.encoder.layers.{i}" for i in (0, 1))
    assert parts["text.embedding"].prefixes == ("text_model.embeddings",)
    assert parts["text.encoder"].owns("text_model.final_layer_norm.weight")
    assert parts["head"].prefixes == ("logit_scale",)
    assert parts["head"].modalities == ("image", "text")


def test_a_tied_head_borrows_from_the_embedding_and_positions_belong_to_the_decoder() -> None:
    parts = found("whisper")
    assert parts["head"].tied_to == "text.embedding"
    assert parts["head"].parameters == 0
    assert parts["head"].macs > 0
    assert parts["text.embedding"].owns("proj_out.weight")
    assert parts["decoder"].owns("model.decoder.embed_positions.weight")
    assert parts["decoder"].modalities == ("audio", "text")
    assert parts["audio.encoder"].prefixes == ("model.encoder",)


def test_learned_queries_belong_to_what_reads_them() -> None:
    assert found("blip2")["image.connector"].owns("query_tokens")
    assert found("detr")["decoder"].owns("model.query_position_embeddings.weight")


def test_deep_stack_mergers_are_connectors_although_they_run_between_blocks() -> None:
    parts = found("qwen3_vl")
    assert parts["image.connector"].owns("model.visual.deepstack_merger_list.0.norm.weight")
    assert parts["image.connector"].owns("model.visual.merger.norm.weight")
    assert parts["image.connector"].modalities == parts["image.encoder"].modalities == ("image", "video")


INPUTS = {
    "photo": ("image", (3, 16, 16), {"name": "cnn", "widths": [8, 16], "blocks": [1, 2]}),
    "scan": ("image", (3, 16, 16), {"name": "transformer", "width": 16, "heads": 2, "layers": 2, "patch": 8}),
    "word": ("text", (6,), {"name": "rnn", "hidden": 8}),
    "kind": ("category", (1,), {"name": "mlp"}),
    "age": ("number", (1,), {"name": "mlp"}),
}


@pytest.mark.parametrize("fusion", ["bilinear", "mean", "gated"])
def test_a_model_of_our_own_goes_by_its_columns(fusion: str) -> None:
    inputs = {
        name: {"features": {"kind": kind, "shape": shape, "vocabulary": 9}, "encoder": encoder}
        for name, (kind, shape, encoder) in INPUTS.items()
    }
    task = {"name": "classify", "labels": ["a", "b"]}
    model = FusionModel(FusionConfig(inputs=inputs, fusion={"name": fusion, "width": 16}, task=task))
    parts = components(model)
    towers = (
        "photo.encoder/2 photo.connector scan.encoder/2 scan.connector word.embedding word.encoder/2 word.connector "
        "kind.embedding kind.encoder kind.connector age.encoder age.connector"
    )
    assert said(parts) == f"{towers} head" if fusion == "mean" else f"{towers} fusion head"
    assert parts[-1].modalities == tuple(INPUTS)
    assert next(part for part in parts if part.owns("absent")).name == ("head" if fusion == "mean" else "fusion")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Plain(nn.Module):
    """Nobody's family: blocks as attributes, a shared tower, a gate that is shut, a buffer, and a part that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.first, self.second, self.third = nn.Linear(5, 8), Block(), Block(), Block()
        self.lead = nn.Linear(8, 8)
        self.listen = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3))
        self.norm = nn.BatchNorm1d(8)
        self.gate = nn.Parameter(torch.zeros(1))
        self.meet = nn.ModuleList([Block(), Block()])
        self.answer = nn.Linear(8, 3)
        self.later = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    def see(self, x: torch.Tensor) -> torch.Tensor:
        return self.lead(self.third(self.second(self.first(self.patch(x)))))

    def forward(self, left: torch.Tensor, right: torch.Tensor, sound: torch.Tensor) -> torch.Tensor:
        heard = self.norm(self.listen(sound)).mT
        x = torch.cat([self.see(left), self.see(right), heard], dim=1) + self.gate
        for block in self.meet:
            x = block(x)
        return self.answer(x.mean(dim=1))


def test_a_model_of_no_family() -> None:
    torch.manual_seed(0)
    inputs = {"left": torch.randn(2, 3, 5), "right": torch.randn(2, 3, 5), "sound": torch.randn(2, 1, 9)}
    batch = ModelBatch(inputs, {"left": "image", "right": "image", "sound": "audio"}, None, ())
    model = Plain()
    parts = components(model, batch, latency=True)
    assert said(parts) == "audio.embedding image.encoder/3 image.connector fusion/2 head unused"
    by_name = {part.name: part for part in parts}
    assert by_name["image.encoder"].blocks == ("first", "second", "third")
    assert by_name["image.connector"].prefixes == ("lead",)
    assert by_name["fusion"].blocks == ("meet.0", "meet.1")
    assert by_name["fusion"].owns("gate")
    assert by_name["head"].prefixes == ("answer",)
    assert by_name["unused"].prefixes == ("later",)
    assert sum(part.latency or 0 for part in parts) == pytest.approx(1)
    assert sum(part.macs for part in parts if part.name == "image.encoder") == 2 * 2 * 3 * (5 * 8 + 3 * 2 * 8 * 16)
    sizes = {name: t.numel() * t.element_size() for name, t in model.state_dict().items()}
    assert [tensor_bytes(part, sizes) for part in parts] == [part.bytes for part in parts]
    assert sum(part.bytes for part in parts) == sum(sizes.values())
