"""Recover what rounding cost: train codes and scales so that the model's answers are those of the original again.

Knowledge distillation onto the grid: the loss is KL(original || compressed) of the model's own answers on the calibration
samples, no labels. Every weight is q = clamp(round(u)) and w = (q - z) s with u, in units of codes, and log s trained by
Adam; rounding passes gradients straight through (Bengio, Leonard, Courville, arXiv 1308.3432; for language models LLM-QAT,
arXiv 2305.17888, and EfficientQAT, arXiv 2407.11062, which train weights and then step sizes). It starts from codes that
another method chose: u stands where the original weight would be within the cell of the chosen code. A part of the samples
is kept aside; the step that answers those best wins, the start included, so that it can only help there.

The model must fit in memory with its gradients: this is for small models and low widths, after the driver is done.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from triptych import console
from triptych.compress.quantize.grid import Codes, finish
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.errors import NumericsError
from triptych.models.tiny_batch import ModelBatch

INSIDE = 0.45  # how far from the middle of its cell a weight may start: at half it would flip with the first step


@dataclass(frozen=True)
class Settings:
    """How long and how fast.

    Attributes:
        steps: of training.
        samples: batches a step.
        lr: of the weights, in code units a step; decays to zero linearly. At 0.01 weights flip by the noise of their gradients
            and nothing is won (measured on three small models); codes near the edge of their cell are the ones to move.
        scale_lr: of log s.
        check: share of the batches that is kept aside to choose the step.
        every: steps between two checks.
        seed: of the order.
    """

    steps: int = 300
    samples: int = 8
    lr: float = 5e-4
    scale_lr: float = 3e-4
    check: float = 0.2
    every: int = 25
    seed: int = 0


@dataclass
class _Trained:
    """One weight in training."""

    item: QuantizedWeight
    u: Tensor
    log_scale: Tensor
    zero: Tensor | None

    def weight(self) -> Float[Tensor, "*shape"]:
        """What the codes stand for, with gradients."""
        grid, columns = self.item.codes.grid, self.u.shape[1]
        inside = self.u.clamp(grid.low, grid.high)
        q = inside + (inside.round() - inside).detach()
        if self.zero is not None:
            q = q - grid.spread(self.zero, columns)
        return (q * grid.spread(self.log_scale.exp(), columns)).reshape(self.item.shape)

    def frozen(self) -> QuantizedWeight:
        """The codes as they are now, on scales that can be stored."""
        grid, codes = self.item.codes.grid, self.item.codes
        values = self.u.detach().clamp(grid.low, grid.high).round()
        scale = grid.storable(self.log_scale.detach().exp())
        zero = torch.zeros_like(scale) if codes.zero is None else codes.zero.to(scale.dtype)
        made = finish(values, scale, zero, grid, codes.notes)
        return QuantizedWeight(made, self.item.shape, self.item.scheme, self.item.input, self.item.passes)


def recover(
    model: nn.Module,
    quantized: Mapping[str, QuantizedWeight],
    batches: Sequence[ModelBatch],
    answer: Callable[[Any, ModelBatch], Tensor],
    settings: Settings | None = None,
) -> dict[str, QuantizedWeight]:
    """Better codes and scales for a model's rounded weights.

    Args:
        model: the original, with its own weights; it is not changed.
        quantized: where to start, by parameter name.
        batches: calibration samples; several rows a batch train faster.
        answer: from a model's output and the batch to log-probabilities [positions, choices].
        settings: how long and how fast.

    Raises:
        NumericsError: the loss became NaN; names the step.
    """
    settings = settings or Settings()
    model.eval().requires_grad_(False)
    trained = {name: _start(model.get_parameter(name), item) for name, item in quantized.items()}
    held = max(1, round(settings.check * len(batches))) if len(batches) > 1 else 0
    aside, used = list(batches[:held]), list(batches[held:])
    with torch.no_grad():
        told = {id(batch): answer(model(**batch.inputs), batch) for batch in batches}

    def divergence(batch: ModelBatch, weights: Mapping[str, Tensor]) -> Tensor:
        log_p = told[id(batch)]
        log_q = answer(functional_call(model, dict(weights), (), batch.inputs), batch)
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean()

    def check() -> float:
        with torch.no_grad():
            weights = {name: one.frozen().restored() for name, one in trained.items()}
            return float(torch.stack([divergence(batch, weights) for batch in aside or used]).mean())

    optimizer = torch.optim.Adam(
        [
            {"params": [one.u for one in trained.values()], "lr": settings.lr},
            {"params": [one.log_scale for one in trained.values()], "lr": settings.scale_lr},
        ],
        betas=(0.9, 0.99),
    )
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (settings.steps + 1))
    generator = torch.Generator().manual_seed(settings.seed)
    best, chosen = check(), dict(quantized)
    with console.progress("recover", settings.steps) as advance, torch.enable_grad():
        for step in range(settings.steps):
            picked = torch.randint(len(used), (min(settings.samples, len(used)),), generator=generator).tolist()
            weights = {name: one.weight() for name, one in trained.items()}
            loss = torch.stack([divergence(used[i], weights) for i in picked]).mean()
            if not bool(loss.isfinite()):
                raise NumericsError(f"The divergence became NaN in step {step} of recovery.", "Use a smaller rate.")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
                now = check()
                if now < best:
                    best, chosen = now, {name: one.frozen() for name, one in trained.items()}
            advance(1, note=f"KL {float(loss.detach()):.4g}, held out {best:.4g}")
    return chosen


def _start(weight: Tensor, item: QuantizedWeight) -> _Trained:
    codes: Codes = item.codes
    scale = codes.scale.clone()
    zero = None if codes.zero is None else codes.zero.to(torch.float32)
    w = weight.detach().reshape(codes.values.shape).float()
    place = w / codes.grid.spread(scale, w.shape[1])
    if zero is not None:
        place = place + codes.grid.spread(zero, w.shape[1])
    q = codes.values.float()
    u = q + (place - q).clamp(-INSIDE, INSIDE)
    return _Trained(item, u.requires_grad_(), scale.log().requires_grad_(), zero)
