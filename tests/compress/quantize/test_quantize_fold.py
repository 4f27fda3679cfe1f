"""Folded norms leave outputs as they were."""

import copy

import pytest
import torch
from torch import nn

from triptych.compress.quantize.fold import fold
from triptych.errors import NumericsError


def lively(model):
    """Norms as training leaves them."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 3)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model.eval()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.read = nn.Conv2d(3, 3, 1)
        self.late = nn.BatchNorm2d(3)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        z = self.read(y)
        return self.late(z) + z  # z is read twice, so its norm stays


@pytest.mark.parametrize(
    ("model", "x", "folded"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4), nn.ReLU()), torch.randn(2, 3, 6, 6), ["1"]),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4)), torch.randn(2, 4, 6, 6), ["1"]),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4, affine=False)), torch.randn(2, 3, 6), ["1"]),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.randn(5, 3), ["1"]),
        (
            nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(6)),
            torch.randn(5, 6, 3),
            [],
        ),  # a norm over steps, not features
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), torch.randn(2, 3, 6, 6), []),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), torch.randn(2, 3, 6, 6), []),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 6, 6), []),
        (Residual(), torch.randn(2, 3, 6, 6), ["norm"]),
    ],
)
def test_outputs_stay(model, x, folded):
    lively(model)
    before = model(x)
    assert list(fold(model, (x,))) == folded
    for name in folded:
        assert isinstance(model.get_submodule(name), nn.Identity)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)


def test_norms_are_reported_with_their_layers():
    model = lively(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert fold(model, (torch.randn(2, 3, 6, 6),)) == {"1": "0"}


def test_a_layer_that_runs_twice_or_is_shared_keeps_its_norm():
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    twice = lively(nn.Sequential(conv, norm, conv))
    assert fold(twice, (torch.randn(2, 3, 4, 4),)) == {}
    tied = nn.ModuleList([nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)])
    tied[2].weight = tied[0].weight
    assert fold(lively(tied), lambda m: m[2](m[1](m[0](torch.ones(4, 3))))) == {}


def test_an_output_that_is_also_returned_keeps_its_norm():
    model = lively(nn.ModuleList([nn.Linear(3, 3), nn.BatchNorm1d(3)]))

    def run(m):
        y = m[0](torch.ones(4, 3))
        return {"raw": y, "normed": m[1](y)}

    assert fold(model, run) == {}


def test_a_change_of_output_is_undone():
    model = lively(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(NumericsError, match=r"Folding the norms 1 moved the model's output by .* of its size"):
        fold(model, (torch.randn(2, 3, 6, 6),), tolerance=-1.0)
    assert isinstance(model[1], nn.BatchNorm2d)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
