"""Recovery brings the answers of a coarsely rounded model nearer to the original's, on samples it was not trained on too."""

import torch
from torch import Tensor, nn

from triptych import console
from triptych.compress.quantize.grid import Codes, Grid
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight
from triptych.compress.quantize.rtn import quantize
from triptych.compress.recover import Recovered, Settings, _mixed, _start, recover
from triptych.models.merge import merged
from triptych.models.tiny_batch import ModelBatch

SCHEME = LayerScheme(weight=Grid(bits=2, group=8), method="rtn")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.second(torch.tanh(self.first(x)))}


def batches(count: int, seed: int) -> list[ModelBatch]:
    draw = torch.Generator().manual_seed(seed)
    return [ModelBatch({"x": torch.randn(1, 16, generator=draw)}, {}, None, ()) for _ in range(count)]


def divergence(model: Model, found: Recovered, data: list[ModelBatch]) -> float:
    weights = {name: item.restored() for name, item in found.quantized.items()} | found.dense
    (batch,) = merged(data, len(data))
    with torch.no_grad():
        p = model(**batch.inputs)["logits"].log_softmax(-1)
        q = torch.func.functional_call(model, weights, (), batch.inputs)["logits"].log_softmax(-1)
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
    settings = Settings(steps=80, every=20)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    found = recover(model, start, merged(batches(256, 1), 16), ["first"], settings)
    unseen = batches(200, 2)
    rounded = Recovered(start, {}, found.before, found.before)
    assert divergence(model, found, unseen) < 0.8 * divergence(model, rounded, unseen)
    assert found.after[0] < found.before[0]
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert found.dense.keys() == {"first.bias", "second.bias"}
    for name, item in found.quantized.items():
        assert item.codes.grid == start[name].codes.grid
        assert torch.equal(item.codes.scale.half().float(), item.codes.scale)
    console.set_mode()


def test_keeps_the_start_where_training_only_harms() -> None:
    console.set_mode(quiet=True)
    model = Model()
    assert SCHEME.weight is not None
    weight = model.first.weight
    start = {"first.weight": QuantizedWeight(quantize(weight, None, SCHEME.weight), tuple(weight.shape), SCHEME)}
    wild = Settings(steps=3, lr=50.0, scale_lr=5.0, dense_lr=9.0, every=1)
    found = recover(model, start, merged(batches(64, 1), 16), ["first"], wild)
    assert torch.equal(found.quantized["first.weight"].codes.values, start["first.weight"].codes.values)
    assert found.dense == {}
    assert found.after == found.before
    console.set_mode()


def test_a_mixed_batch_is_the_same_media_in_other_rows() -> None:
    inputs = {"ids": torch.arange(6)[:, None], "pixels": torch.arange(6.0)[:, None], "mask": torch.arange(6)[:, None]}
    batch = ModelBatch(inputs, {"ids": "text", "pixels": "image", "mask": "image"}, None, ())
    mixed = _mixed(batch, torch.Generator().manual_seed(0)).inputs
    assert torch.equal(mixed["ids"], inputs["ids"])
    assert not torch.equal(mixed["pixels"], inputs["pixels"])
    assert torch.equal(mixed["pixels"].sort(0).values, inputs["pixels"])
    assert torch.equal(mixed["pixels"].long(), mixed["mask"])


def test_a_weight_starts_in_the_cell_of_its_code_as_near_its_edge_as_it_was() -> None:
    codes = Codes(torch.tensor([[0, 0, 0, 1]], dtype=torch.int8), torch.tensor([[2.0]]), None, Grid(bits=3))
    item = QuantizedWeight(codes, (1, 4), SCHEME)
    place = _start(torch.tensor([[0.8, 1.4, 5.0, 1.4]]), item)
    torch.testing.assert_close(place, torch.tensor([[0.4, 0.3, 0.0, 0.7]]))


def test_joins_only_what_has_one_shape() -> None:
    rows = [*batches(3, 0), ModelBatch({"x": torch.zeros(1, 9)}, {}, None, ()), *batches(2, 1)]
    joined = merged(rows, 2)
    assert [tuple(batch.inputs["x"].shape) for batch in joined] == [(2, 16), (1, 16), (1, 9), (2, 16)]
    assert torch.equal(joined[0].inputs["x"][1], rows[1].inputs["x"][0])
