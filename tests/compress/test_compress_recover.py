"""Recovery brings the answers of a coarsely rounded model nearer to the original's, on samples it was not trained on too."""

from typing import Any

import torch
from torch import Tensor, nn

from triptych import console
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight
from triptych.compress.quantize.rtn import quantize
from triptych.compress.recover import Settings, recover
from triptych.models.merge import merged
from triptych.models.tiny_batch import ModelBatch

SCHEME = LayerScheme(weight=Grid(bits=2, group=8), method="rtn")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def batches(count: int, seed: int) -> list[ModelBatch]:
    draw = torch.Generator().manual_seed(seed)
    return [ModelBatch({"x": torch.randn(1, 16, generator=draw)}, {}, None, ()) for _ in range(count)]


def answer(output: Any, batch: ModelBatch) -> Tensor:
    return output.log_softmax(-1)


def divergence(model: Model, quantized: dict[str, QuantizedWeight], data: list[ModelBatch]) -> float:
    weights = {name: item.restored() for name, item in quantized.items()}
    (batch,) = merged(data, len(data))
    with torch.no_grad():
        p = model(**batch.inputs).log_softmax(-1)
        q = torch.func.functional_call(model, weights, (), batch.inputs).log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_recovers_on_samples_it_never_saw() -> None:
    console.set_mode(quiet=True)
    torch.manual_seed(0)
    model = Model()
    assert SCHEME.weight is not None
    start = {
        f"{name}.weight": QuantizedWeight(
            quantize(layer.weight, None, SCHEME.weight), tuple(layer.weight.shape), SCHEME
        )
        for name, layer in model.named_children()
        if isinstance(layer, nn.Linear)
    }
    settings = Settings(steps=120, samples=4, lr=5e-3, scale_lr=2e-3, every=20)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    found = recover(model, start, merged(batches(256, 1), 16), answer, settings)
    unseen = batches(200, 2)
    assert divergence(model, found, unseen) < 0.8 * divergence(model, start, unseen)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    for name, item in found.items():
        assert item.codes.grid == start[name].codes.grid
        assert torch.equal(item.codes.scale.half().float(), item.codes.scale)
    console.set_mode()


def test_keeps_the_start_where_training_only_harms() -> None:
    console.set_mode(quiet=True)
    model = Model()
    assert SCHEME.weight is not None
    weight = model.first.weight
    start = {"first.weight": QuantizedWeight(quantize(weight, None, SCHEME.weight), tuple(weight.shape), SCHEME)}
    found = recover(model, start, merged(batches(64, 1), 16), answer, Settings(steps=3, lr=50.0, scale_lr=5.0, every=1))
    assert torch.equal(found["first.weight"].codes.values, start["first.weight"].codes.values)
    console.set_mode()


def test_joins_only_what_has_one_shape() -> None:
    rows = [*batches(3, 0), ModelBatch({"x": torch.zeros(1, 9)}, {}, None, ()), *batches(2, 1)]
    joined = merged(rows, 2)
    assert [tuple(batch.inputs["x"].shape) for batch in joined] == [(2, 16), (1, 16), (1, 9), (2, 16)]
    assert torch.equal(joined[0].inputs["x"][1], rows[1].inputs["x"][0])
