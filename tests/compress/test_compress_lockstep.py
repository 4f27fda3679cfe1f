"""Walks beside each other leave the caller's gradient mode alone, whatever is left in the middle."""

import torch
from torch import Tensor, nn

from triptych.compress.lockstep import lockstep
from triptych.models.tiny_batch import ModelBatch


class Two(nn.Module):
    """Two layers, the second inside of a context of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        with torch.no_grad():
            return self.second(x)


def walk(model: nn.Module):
    batches = [ModelBatch({"x": torch.ones(2, 3)}, {"x": "image"}, None, ()) for _ in range(2)]
    stops = dict(model.named_children())
    return lockstep(model, batches, stops, list(stops))


def test_gradients_stay_on_while_two_walks_are_under_way_and_after_them():
    model = Two()
    one, other = walk(model), walk(model)
    for _ in range(2):
        assert next(one).name == next(other).name
        assert torch.is_grad_enabled()
    one.close()
    assert next(other, None) is None
    assert torch.is_grad_enabled()


def test_gradients_are_off_inside():
    model = Two()
    stops = list(walk(model))
    assert [stop.name for stop in stops] == ["first", "second"]
    assert not any(x.requires_grad for stop in stops for x in stop.inputs.values())
