"""AutoRound: learns which way every weight of a block is rounded, from what the block computes.

Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs" (Findings of EMNLP
2024). Every weight w of every linear layer becomes

    scale * (clamp(round(w / scale + V) + zero) - zero),     V in [-1/2, 1/2], one a weight

while alpha and beta, one each a group, shrink the upper and lower end of the range that scale and zero span. All are
learned together from the mean squared error of the block's output, by signed gradients with rounding passed straight
through, at a rate that falls from 1 / steps to nothing.

The paper starts from the extremes of each group. Here the start is always a set of codes: those given (GPTQ's, say) or
those of rounding to nearest with searched scales. V counts from where those codes come out, so zero steps change
nothing, alpha and beta start at 1 and may grow back to the extremes, and the result is never worse on the samples than
the start.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from triptych.compress.quantize import rtn
from triptych.compress.quantize.grid import Codes, Grid, finish
from triptych.errors import InputError, NumericsError

Call = tuple[tuple[Any, ...], Mapping[str, Any]]

INSIDE = 0.25  # steps between a tie and the start of a weight whose given code is not the nearest


def learn(
    block: nn.Module,
    inputs: Sequence[Call],
    targets: Sequence[Float[Tensor, "*_"]],
    schemes: Mapping[str, Grid],
    start: Mapping[str, Codes] | None = None,
    *,
    steps: int = 200,
    batch: int = 8,
    rate: float = 1.0,
    seed: int = 0,
    weights: Sequence[Float[Tensor, "*_"]] | None = None,
) -> dict[str, Codes]:
    """Codes of a block's linear layers; the block itself is not changed.

    Args:
        block: any module, in evaluation mode; if it returns a tuple, the first tensor counts.
        inputs: what it is called with, one (args, kwargs) a sample or small batch.
        targets: the outputs wanted for them, such as those of the original block.
        schemes: the grid of every nn.Linear to round, by its name in the block; the others stay as they are.
        start: codes to begin from, on the same grids; a layer without begins at its nearest codes.
        steps: signed steps.
        batch: calls drawn for a step.
        rate: the first step's size times `steps`; the steps together move V by at most about half of it.
        seed: of the draw.
        weights: of each call's output positions (shaped like the target without its last axis); 1 by default.

    Returns:
        Codes by layer name: of the start, the step whose draw had the least error, or the last one, whichever is best
        over all calls.

    Raises:
        InputError: inputs and targets differ in number, a name is no linear layer, or codes do not fit.
        NumericsError: the error is NaN or infinite.
    """
    if not inputs or len(inputs) != len(targets) or (weights is not None and len(weights) != len(inputs)):
        raise InputError(f"AutoRound got {len(inputs)} inputs for {len(targets)} targets.", "Give each input a target.")
    layers = {
        name: _Rounding(name, _linear(block, name), grid, (start or {}).get(name)) for name, grid in schemes.items()
    }
    parameters = [parameter for layer in layers.values() for parameter in (layer.v, layer.ends)]
    generator = torch.Generator().manual_seed(seed)

    def loss(calls: Sequence[int]) -> Tensor:
        restored = {f"{name}.weight": layer.restored() for name, layer in layers.items()}
        outputs = [_output(functional_call(block, restored, inputs[i][0], dict(inputs[i][1]))) for i in calls]
        changes = [output - targets[i] for output, i in zip(outputs, calls, strict=True)]
        return torch.stack(
            [_squared(c, None if weights is None else weights[i]) for c, i in zip(changes, calls, strict=True)]
        ).mean()

    def kept() -> list[Tensor]:
        return [parameter.detach().clone() for parameter in parameters]

    first, best, least = kept(), kept(), torch.inf
    for step in range(steps):
        error = loss(torch.randperm(len(inputs), generator=generator)[:batch].tolist())
        value = error.item()
        if not math.isfinite(value):
            raise NumericsError(f"AutoRound's error is {value} at step {step}.", "Check the block's samples.")
        if value < least:
            best, least = kept(), value
        slopes = torch.autograd.grad(error, parameters, materialize_grads=True)  # an expert may be idle
        for layer, v, ends in zip(layers.values(), slopes[::2], slopes[1::2], strict=True):
            layer.step(v, ends, rate * (1 - step / steps) / steps)
    with torch.no_grad():
        found = []
        for state in (first, best, kept()) if steps else (first,):
            for parameter, tensor in zip(parameters, state, strict=True):
                parameter.copy_(tensor)
            found.append((loss(range(len(inputs))).item(), [layer.codes() for layer in layers.values()]))
    return dict(zip(layers, min(found, key=lambda entry: entry[0])[1], strict=True))


class _Rounding:
    """The learned rounding of one weight, seen as [rows, groups, width] with the last group padded.

    Attributes:
        v: what V has moved from where the starting codes come out, [rows, groups, width].
        ends: alpha and beta, [2, rows, groups, 1].
    """

    def __init__(self, name: str, layer: nn.Linear, grid: Grid, start: Codes | None) -> None:
        weight, self.kind = layer.weight.detach(), layer.weight.dtype
        self.exact = weight.to(torch.promote_types(self.kind, torch.float32))
        codes = rtn.quantize(self.exact, None, grid) if start is None else start
        if codes.grid != grid or codes.values.shape != weight.shape:
            raise InputError(
                f"{name} starts from {tuple(codes.values.shape)} codes on {codes.grid!r}, "
                f"but its weight is {tuple(weight.shape)} and its grid {grid!r}."
            )
        self.grid, self.notes, self.columns = grid, codes.notes, weight.shape[1]
        self.w = self._grouped(self.exact)
        self.scale = codes.scale.to(self.w.dtype)[:, :, None]
        self.zero = torch.zeros_like(self.scale) if codes.zero is None else codes.zero.to(self.w.dtype)[:, :, None]
        self.begin = self._begin(self._grouped(codes.values.to(self.w.dtype)))
        self.v = torch.zeros_like(self.w).requires_grad_()
        self.ends = torch.ones(2, *self.scale.shape, dtype=self.w.dtype, device=self.w.device).requires_grad_()
        upper, lower = (grid.high - self.zero) * self.scale, (grid.low - self.zero) * self.scale
        most, least = self.w.amax(-1, keepdim=True), self.w.amin(-1, keepdim=True)
        if grid.symmetric:
            most = torch.maximum(most, -least)
        tiny = torch.finfo(torch.float32).tiny
        reach = torch.stack([most / upper.clamp(min=tiny), least / lower.clamp(max=-tiny)])
        edge = torch.stack([upper > tiny, lower < -tiny])
        self.reach = torch.where(edge, reach, torch.ones_like(reach)).clamp_(min=1)

    def _grouped(self, matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows groups width"]:
        groups, width = self.grid.groups(self.columns), self.grid.width(self.columns)
        return nn.functional.pad(matrix, (0, groups * width - self.columns)).reshape(len(matrix), groups, width)

    def _begin(self, codes: Float[Tensor, "rows groups width"]) -> Float[Tensor, "rows groups width"]:
        """The V that the starting codes come out at: 0 where they are nearest, else a little inside their interval."""
        scaled = self.w / self.scale
        nearest = (scaled.round() + self.zero).clamp_(self.grid.low, self.grid.high)
        level = codes - self.zero
        moved = scaled.clamp(level - INSIDE, level + INSIDE) - scaled
        return torch.where(nearest == codes, torch.zeros_like(moved), moved)

    def _levels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, scale and zero point, with gradients passed straight through every rounding."""
        low, high = self.grid.low, self.grid.high
        alpha, beta = self.ends
        if self.grid.symmetric:
            stretch, zero = alpha, self.zero
        else:
            stretch = (alpha * (high - self.zero) - beta * (low - self.zero)) / (high - low)
            zero = _through(low - beta * (low - self.zero) / stretch, torch.round).clamp(low, high)
        scale = _through(self.scale * stretch, self.grid.storable)
        codes = (_through(self.w / scale + (self.begin + self.v), torch.round) + zero).clamp(low, high)
        return codes, scale, zero

    def restored(self) -> Float[Tensor, "rows columns"]:
        """The weight that the codes stand for."""
        codes, scale, zero = self._levels()
        return ((codes - zero) * scale).flatten(1)[:, : self.columns].to(self.kind)

    def step(self, v: Tensor, ends: Tensor, rate: float) -> None:
        """One signed step against the slopes, within the bounds."""
        with torch.no_grad():
            self.v.sub_(v.sign(), alpha=rate).clamp_(-0.5, 0.5)
            self.ends.sub_(ends.sign(), alpha=rate)
            torch.minimum(self.ends.clamp_(min=0.1), self.reach, out=self.ends)  # a scale may not vanish

    def codes(self) -> Codes:
        """The codes in their storage types."""
        codes, scale, zero = self._levels()
        return finish(codes.flatten(1)[:, : self.columns], scale.squeeze(-1), zero.squeeze(-1), self.grid, self.notes)


def _output(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _squared(change: Tensor, weight: Tensor | None) -> Tensor:
    """Mean squared error, in float32 at least."""
    squared = change.to(torch.promote_types(change.dtype, torch.float32)).square()
    return (squared if weight is None else squared * weight[..., None]).mean()


def _through(x: Tensor, rounding: Any) -> Tensor:
    """Rounds, and passes gradients as if it had not."""
    return x + (rounding(x) - x).detach()


def _linear(block: nn.Module, name: str) -> nn.Linear:
    layer = dict(block.named_modules()).get(name)
    if not isinstance(layer, nn.Linear):
        known = [path for path, module in block.named_modules() if isinstance(module, nn.Linear)]
        raise InputError(f"The block has no linear layer {name!r}.", f"It has: {', '.join(known) or 'none'}.")
    return layer
