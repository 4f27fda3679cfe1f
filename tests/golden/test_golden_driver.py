"""The driver against its slow twin: a whole model in memory, run from the start again for every group of layers."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from families import FAMILIES
from triptych.compress.driver import Work, drive
from triptych.compress.journal import Journal
from triptych.compress.lockstep import Call, trace
from triptych.compress.quantize.gptq import quantize
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme
from triptych.compress.quantize.moments import collect
from triptych.models.folder import find_weights, open_folder, skeleton
from triptych.models.stream import Stream
from triptych.models.tiny_batch import ModelBatch

FOUR = LayerScheme(weight=Grid(bits=4, group=32))


def batches(name: str, model: nn.Module) -> list[ModelBatch]:
    generator = torch.Generator().manual_seed(0)

    def ids(rows: int, length: int) -> torch.Tensor:
        return torch.randint(3, 60, (rows, length), generator=generator)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    made: list[dict[str, torch.Tensor]] = []
    for number in range(3):
        if name == "llava":
            side = model.config.vision_config.image_size
            text = ids(1, 20 + number)
            inputs = {"input_ids": text}
            if number:  # the first sample has no picture
                text[:, 1 : 1 + (side // model.config.vision_config.patch_size) ** 2] = model.config.image_token_id
                inputs["pixel_values"] = noise(1, 3, side, side)
            made.append(inputs)
        elif name == "clip":
            side = model.config.vision_config.image_size
            mask = torch.ones(2, 9, dtype=torch.long)
            mask[1, 5:] = 0
            made.append({"input_ids": ids(2, 9), "attention_mask": mask, "pixel_values": noise(2, 3, side, side)})
        else:
            frames = 2 * model.config.max_source_positions
            features = noise(1, model.config.num_mel_bins, frames)
            made.append({"input_features": features, "decoder_input_ids": ids(1, 6 + number)})
    return [ModelBatch(inputs, {}, None, ()) for inputs in made]


def driven(folder: Path, samples: Sequence[ModelBatch], calls: Sequence[Call], work: Path) -> tuple[Journal, Stream]:
    """What the driver makes of a folder's layers."""
    opened = open_folder(folder)
    empty = skeleton(opened)
    schemes = {f"{call.name}.weight": FOUR for call in calls}
    stream = Stream(empty, find_weights(opened, empty), always=set(schemes))
    journal = Journal(work, {})
    list(drive(stream, samples, Work(schemes, calls, lambda weight: weight.rpartition(".")[0]), journal))
    return journal, stream


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Those that share their weight with no table."""
    tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m.weight) not in tied}


def test_some_rows_at_a_time_make_the_same_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["llava"]()
    model.save_pretrained(tmp_path / "model")
    samples = batches("llava", model)
    calls = trace(model, samples[1], linear_layers(model))
    whole, stream = driven(tmp_path / "model", samples, calls, tmp_path / "whole")
    assert not any(map(stream.in_parts, stream.streamed))
    monkeypatch.setattr("triptych.compress.driver.TOGETHER", 700)
    monkeypatch.setattr("triptych.models.stream.GIANT", 500)
    monkeypatch.setattr("triptych.models.stream.PART", 300)
    parts, streamed = driven(tmp_path / "model", samples, calls, tmp_path / "parts")
    assert all(streamed.in_parts(f"{call.name}.weight") for call in calls)
    for call in calls:
        one, other = (journal.weight(f"{call.name}.weight").codes for journal in (whole, parts))
        assert torch.equal(one.values, other.values), call.name
        assert torch.equal(one.scale, other.scale), call.name
    with torch.no_grad():
        one, other = (made.model(**samples[1].inputs).logits for made in (stream, streamed))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["llava", "clip", "whisper"])
def test_equals_one_run_of_the_whole_model_per_group(name: str, tmp_path: Path) -> None:
    model = FAMILIES[name]()
    model.save_pretrained(tmp_path / "model")
    samples, layers = batches(name, model), linear_layers(model)
    calls = trace(model, samples[1], layers)
    journal, _ = driven(tmp_path / "model", samples, calls, tmp_path / "work")

    group: list[str] = []
    for call, following in zip(calls, [*calls[1:], None], strict=True):
        group.append(call.name)
        if following is not None and following.shares is not None:
            continue
        names = [f"{layer}.weight" for layer in group]
        inputs = [sample.inputs for sample in samples if _reaches(model, layers[group[0]], sample)]
        if any("attention_mask" in one for one in inputs) and inputs[0]["input_ids"].shape == (2, 9):
            moment = _masked_moment(model, layers[group[0]], inputs)
        else:
            moment = collect(model, inputs, names[:1])[names[0]].moment
        for weight in names:
            codes = quantize(model.get_parameter(weight).data, moment, FOUR.weight)
            assert torch.equal(journal.weight(weight).codes.values, codes.values), weight
            model.get_parameter(weight).data.copy_(codes.dequantize())
        group = []


def _reaches(model: nn.Module, layer: nn.Module, sample: ModelBatch) -> bool:
    met: list[bool] = []
    handle = layer.register_forward_pre_hook(lambda *_: met.append(True))
    with torch.no_grad():
        model(**sample.inputs)
    handle.remove()
    return bool(met)


def _masked_moment(model: nn.Module, layer: nn.Module, inputs: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    rows: list[torch.Tensor] = []
    mask_now = [inputs[0]["attention_mask"]]

    def keep(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        x, mask = given[0], mask_now[0]
        rows.append(x[mask.bool()] if x.shape[:-1] == mask.shape else x.reshape(-1, x.shape[-1]))

    handle = layer.register_forward_pre_hook(keep)
    with torch.no_grad():
        for one in inputs:
            mask_now[0] = one["attention_mask"]
            model(**one)
    handle.remove()
    together = torch.cat(rows)
    return together.T @ together / len(together)
