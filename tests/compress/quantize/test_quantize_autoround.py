"""Learned rounding of blocks."""

import copy

import pytest
import torch
from torch import nn

from triptych.compress.quantize import gptq, rtn
from triptych.compress.quantize.autoround import learn
from triptych.compress.quantize.grid import Grid
from triptych.errors import InputError, NumericsError

GRID = Grid(bits=3, group=10, symmetric=False)


class Block(nn.Module):
    """A gated residual block that is called with a keyword and returns a tuple."""

    def __init__(self):
        super().__init__()
        self.norm, self.gate, self.up = nn.LayerNorm(24), nn.Linear(24, 32), nn.Linear(24, 32, bias=False)
        self.down = nn.Linear(32, 24)

    def forward(self, x, *, scale):
        inner = self.norm(x)
        return x + scale * self.down(torch.sigmoid(self.gate(inner)) * self.up(inner)), "cache"


@pytest.fixture
def problem():
    torch.manual_seed(0)
    block = Block().eval()
    mix = torch.randn(24, 24)
    inputs = [((torch.randn(2, 9, 24) @ mix,), {"scale": 1.5}) for _ in range(12)]
    with torch.no_grad():
        targets = [block(*args, **kwargs)[0] for args, kwargs in inputs]
    return block, inputs, targets


def error(block, codes, inputs, targets, weights=None):
    rounded = copy.deepcopy(block)
    with torch.no_grad():
        for name, code in codes.items():
            rounded.get_submodule(name).weight.copy_(code.dequantize())
        change = [(rounded(*a, **k)[0] - y).square() for (a, k), y in zip(inputs, targets, strict=True)]
    return torch.stack(
        change if weights is None else [c * w[..., None] for c, w in zip(change, weights, strict=True)]
    ).mean()


def nearest(block):
    return {name: rtn.quantize(getattr(block, name).weight, None, GRID) for name in ("gate", "up", "down")}


def test_learning_beats_nearest_and_leaves_the_block_alone(problem):
    block, inputs, targets = problem
    state = copy.deepcopy(block.state_dict())
    codes = learn(block, inputs, targets, dict.fromkeys(("gate", "up", "down"), GRID), steps=40)
    assert all(torch.equal(value, state[name]) for name, value in block.state_dict().items())
    assert error(block, codes, inputs, targets) < 0.8 * error(block, nearest(block), inputs, targets)
    again = learn(block, inputs, targets, dict.fromkeys(("gate", "up", "down"), GRID), steps=40)
    assert all(torch.equal(codes[name].values, again[name].values) for name in codes)


def moment(inputs, block):
    with torch.no_grad():
        x = torch.cat([block.norm(args[0]).reshape(-1, 24) for args, _ in inputs])
    return x.T @ x / len(x)


@pytest.mark.parametrize("grid", [GRID, Grid(bits=2), Grid(bits=4, group=7)])
def test_the_start_comes_out_and_is_improved_upon(problem, grid):
    block, inputs, targets = problem
    H = moment(inputs, block)
    start = {name: gptq.quantize(getattr(block, name).weight, H, grid) for name in ("gate", "up")}
    schemes = dict.fromkeys(start, grid)
    same = learn(block, inputs, targets, schemes, start, steps=0)
    for name, codes in start.items():
        assert torch.equal(codes.values, same[name].values)
        assert torch.equal(codes.scale, same[name].scale)
        assert codes.zero is None or torch.equal(codes.zero, same[name].zero)
    learned = learn(block, inputs, targets, schemes, start, steps=40)
    before, after = (error(block, codes, inputs, targets) for codes in (start, learned))
    assert after <= before
    assert grid.bits > 2 or after < 0.9 * before


def test_weighted_positions_are_served_first(problem):
    block, inputs, targets = problem
    weights = [torch.zeros(2, 9) for _ in inputs]
    for weight in weights:
        weight[:, 3] = 1.0
    schemes = dict.fromkeys(("gate", "up", "down"), GRID)
    plain = learn(block, inputs, targets, schemes, steps=40)
    served = learn(block, inputs, targets, schemes, steps=40, weights=weights)
    assert error(block, served, inputs, targets, weights) < error(block, plain, inputs, targets, weights)
    assert error(block, plain, inputs, targets) < error(block, served, inputs, targets)


def test_bad_input_is_refused(problem):
    block, inputs, targets = problem
    with pytest.raises(InputError, match="12 inputs for 11 targets"):
        learn(block, inputs, targets[1:], {"gate": GRID})
    with pytest.raises(InputError, match=r"no linear layer 'norm'\. It has: gate, up, down"):
        learn(block, inputs, targets, {"norm": GRID})
    with pytest.raises(InputError, match=r"gate starts from \(24, 32\) codes"):
        learn(block, inputs, targets, {"gate": GRID}, {"gate": nearest(block)["down"]})
    with pytest.raises(NumericsError, match="AutoRound's error is nan at step 0"):
        learn(block, inputs, [target / 0 - target / 0 for target in targets], {"gate": GRID})
