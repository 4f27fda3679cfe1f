"""Samples in lockstep with next to nothing of theirs in memory: the same numbers, and nothing left behind."""

from pathlib import Path

import torch
from torch import Tensor, nn

from triptych.compress import offload
from triptych.compress.lockstep import lockstep
from triptych.compress.offload import Offload
from triptych.models.tiny_batch import ModelBatch


class Residual(nn.Module):
    """Holds its input, a view of it and a list of earlier results over every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        earlier = [x * 2]
        for layer in self.layers:
            half = earlier[-1][:, :16]
            earlier.append(earlier[-1] + layer(earlier[-1]).relu())
            earlier[-1][:, :16] -= half.mean()
        return torch.stack(earlier).sum(0)


def walk(model: Residual, batches: list[ModelBatch]) -> list[Tensor]:
    """Every input of every layer, as the driver meets it."""
    names = [f"layers.{n}" for n in range(4)]
    stops = lockstep(model, batches, {name: model.get_submodule(name) for name in names}, names)
    return [x.clone() for stop in stops for x in stop.inputs.values()]


def test_the_same_numbers_with_everything_on_disk(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(offload, "SMALL", 64)
    torch.manual_seed(0)
    model = Residual()
    batches = [ModelBatch({"x": torch.randn(40, 32)}, {}, None, ()) for _ in range(5)]
    plain = walk(model, batches)
    with Offload(tmp_path / "waiting", 3 * 40 * 32 * 4) as watched:
        found = walk(model, batches)
        in_files = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert watched.written > in_files > 0
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))
    assert list(tmp_path.iterdir()) == []


def test_what_is_still_held_comes_back_at_the_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(offload, "SMALL", 64)
    torch.manual_seed(0)
    model, kept = Residual(), []
    model.layers[0].register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    batches = [ModelBatch({"x": torch.randn(40, 32)}, {}, None, ()) for _ in range(5)]
    with Offload(tmp_path / "waiting", 0):
        walk(model, batches)
        assert {x.untyped_storage().nbytes() for x in kept} == {0}
    for x, batch in zip(kept, batches, strict=True):
        assert torch.equal(x, batch.inputs["x"] * 2)
