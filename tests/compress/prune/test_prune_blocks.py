import math

import pytest
import torch
from torch import nn

from triptych.compress.prune import block_influence, drop, dropped
from triptych.errors import InputError


class Block(nn.Module):
    """Turns every pair of features by an angle; its cosine is known."""

    def __init__(self, angle):
        super().__init__()
        c, s = math.cos(angle), math.sin(angle)
        self.register_buffer("turn", torch.tensor([[c, -s], [s, c]]))
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, mask=None):
        return (x.unflatten(-1, (-1, 2)) @ self.turn).flatten(-2), mask


class Tower(nn.Module):
    def __init__(self, angles=(0.0, 0.5, 2.0)):
        super().__init__()
        self.layers = nn.ModuleList(Block(angle) for angle in angles)
        self.spare = nn.Linear(2, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        for layer in self.layers:
            out = layer(x, mask=torch.ones(1))
            x = self.dropout(out[0] if isinstance(out, tuple) else out)
        return x


NAMES = ["layers.0", "layers.1", "layers.2"]


def test_block_influence_is_one_minus_the_cosine():
    tower = Tower().train()
    batches = [torch.randn(2, 3, 4), torch.randn(1, 7, 4), torch.zeros(1, 1, 4)]
    scores = block_influence(tower, NAMES, batches[:2], lambda model, batch: model(batch))
    assert list(scores.values()) == pytest.approx([1 - math.cos(angle) for angle in (0.0, 0.5, 2.0)], abs=1e-6)
    scores = block_influence(tower, NAMES, batches[2:], lambda model, batch: model(batch))
    assert list(scores.values()) == [0, 0, 0]  # zero in, zero out: nothing changed
    assert tower.training
    assert not any(module._forward_hooks for module in tower.modules())


def test_images_are_compared_channel_by_channel():
    class Mirror(nn.Module):
        def forward(self, x):
            return x * torch.tensor([1.0, -1.0])[:, None, None]

    x = torch.ones(1, 2, 3, 3)
    x[:, 1] = 0.5
    scores = block_influence(nn.Sequential(Mirror()), ["0"], [x], lambda model, batch: model(batch))
    assert scores["0"] == pytest.approx(1 - 0.75 / 1.25)


def test_a_dropped_block_passes_its_input_on():
    tower, less = Tower().eval(), Tower((0.0, 0.5)).eval()
    drop(tower, "layers.2")
    x = torch.randn(2, 3, 4)
    assert torch.equal(tower(x), less(x))
    assert isinstance(tower.layers[2], nn.Identity)


def test_a_model_without_blocks_reloads_from_their_names():
    tower = Tower()
    drop(tower, "layers.0")
    drop(tower, "layers.2")
    assert dropped(tower) == ["layers.0", "layers.2"]
    fresh = Tower()
    for name in dropped(tower):
        drop(fresh, name)
    fresh.load_state_dict(tower.state_dict(), strict=True)
    assert [name for name, _ in fresh.named_parameters() if "layers" in name] == ["layers.1.weight"]


def test_bad_names_are_refused():
    tower = Tower()
    with pytest.raises(InputError, match=r"The model has no block 'layers\.7'"):
        drop(tower, "layers.7")
    drop(tower, "layers.1")
    with pytest.raises(InputError, match=r"Block 'layers\.1' is dropped already"):
        drop(tower, "layers.1")


def test_blocks_that_cannot_be_dropped_are_refused():
    tower = Tower()
    x = [torch.randn(2, 2)]
    with pytest.raises(InputError, match=r"Block 'spare' turns \(2, 2\) into \(2, 3\)"):
        block_influence(tower, ["spare"], x, lambda model, batch: model.spare(batch))
    with pytest.raises(InputError, match="No calibration sample reached block 'spare'"):
        block_influence(tower, ["spare"], x, lambda model, batch: model(batch))
    with pytest.raises(InputError, match="A block passes no tensor on"):
        block_influence(nn.Identity(), [""], ["no tensor"], lambda model, batch: model(batch))
    assert not any(module._forward_hooks for module in tower.modules())
