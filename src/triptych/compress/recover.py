"""Recover what rounding cost: train codes, scales and what stayed dense until the model answers as the original did.

Knowledge distillation onto the grid, from the calibration samples alone and without labels. Every rounded weight is
q = clamp(round(u)) and w = (q - z) s, with u in units of codes and s = s_0 exp(d); u, d and the norms and biases, which were never
rounded and cost no bits, are trained by Adam, and rounding passes gradients straight through (Bengio, Leonard, Courville, arXiv
1308.3432; for language models LLM-QAT, arXiv 2305.17888, and EfficientQAT, arXiv 2407.11062).

u starts at the original weight where that is nearest to the code that another method chose. Where it is not, the weight is
reflected at the edge of the code's cell: as many codes are then a small step from their neighbour as before. Put all of them at one
distance from the edge and they flip in the same step, which wrecks the model.

The loss has two parts, each in units of what it is before training: KL(original || compressed) of the answers, and the squared
change of what every block puts out, relative to its variance. Answers say what matters and are few; blocks say less and
are many: a hundred samples' answers alone are soon learnt by heart. Since the original can be asked anything, each step
hands the images and sounds of a batch to other rows of it: new samples from the old ones.

A part of the samples is kept aside; the step with the least loss on those wins, the start included. The model must fit in
memory, with its gradients.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from triptych import console
from triptych.compress.quantize.grid import finish
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.errors import NumericsError
from triptych.models.tiny_batch import ModelBatch

WARM_UP = 0.1  # of the steps: Adam's first steps are as long as its rate, whatever the slope
LEAST = 1e-12  # a part of the loss that is less before training has nothing to recover


@dataclass(frozen=True)
class Settings:
    """How long and how fast.

    Attributes:
        steps: of training.
        rows: samples a step.
        lr: of the weights, in code units a step; all rates rise for a tenth of the steps, then fall to zero.
        scale_lr: of d, the logarithm of what a scale is multiplied with.
        dense_lr: of norms and biases.
        check: share of the samples that is kept aside to choose the step.
        every: steps between two checks.
        seed: of the draw.
    """

    steps: int = 100
    rows: int = 32
    lr: float = 2e-3
    scale_lr: float = 1e-3
    dense_lr: float = 3e-4
    check: float = 0.125
    every: int = 20
    seed: int = 0

    def rate(self, step: int) -> float:
        """What the rates are multiplied with in a step."""
        done = (step + 1) / (self.steps + 1)
        return min(done / WARM_UP, (1 - done) / (1 - WARM_UP))


@dataclass(frozen=True)
class Recovered:
    """What training found.

    Attributes:
        quantized: better codes and scales, by parameter name.
        dense: norms and biases that have changed.
        before, after: divergence of the answers (KL in nats) and relative error of the blocks, on the samples kept aside.
    """

    quantized: dict[str, QuantizedWeight]
    dense: dict[str, Tensor]
    before: tuple[float, float]
    after: tuple[float, float]


def recover(
    model: nn.Module,
    quantized: Mapping[str, QuantizedWeight],
    batches: Sequence[ModelBatch],
    blocks: Sequence[str] = (),
    settings: Settings | None = None,
    changed: Mapping[str, Tensor] | None = None,
) -> Recovered:
    """Better codes, scales, norms and biases for a model whose weights were rounded.

    Args:
        model: the original, with its own weights; it is not changed.
        quantized: where to start, by parameter name. Weights whose layers round their inputs too stay as they are.
        batches: calibration samples; several rows a batch train faster, and can be mixed.
        blocks: modules whose outputs are to stay as they were.
        settings: how long and how fast.
        changed: parameters that the method changed besides, such as norms that scales were folded into.

    Raises:
        NumericsError: the loss became NaN; names the step.
    """
    settings = settings or Settings()
    model.eval().requires_grad_(False)
    student, teacher = _Student(model, quantized, changed or {}), _Watched(model, blocks)
    aside, used = _split(batches, settings.check)
    generator = torch.Generator().manual_seed(settings.seed)

    def parts(asked: Sequence[ModelBatch], weights: Mapping[str, Tensor]) -> Float[Tensor, "2"]:
        with torch.no_grad():
            told = teacher(asked, {})
        return _divergence(told, teacher(asked, weights))

    def check() -> Float[Tensor, "2"]:
        with torch.no_grad():
            return parts(aside or used, student.frozen_weights())

    optimizer = student.optimizer(settings)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.rate)
    before = check()
    unit, best, after = before.clamp(min=LEAST), float((before > LEAST).sum()), before
    chosen = dict(quantized), dict[str, Tensor]()
    with console.progress("recover", settings.steps) as advance, torch.enable_grad():
        for step in range(settings.steps):
            asked = [_mixed(batch, generator) for batch in _drawn(used, settings.rows, generator)]
            loss = (parts(asked, student.weights()) / unit).sum()
            if not bool(loss.isfinite()):
                raise NumericsError(f"The divergence became NaN in step {step} of recovery.", "Use a smaller rate.")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
                now = check()
                if float((now / unit).sum()) < best:
                    best, after, chosen = float((now / unit).sum()), now, student.frozen()
            advance(1, note=f"loss {float(loss.detach()):.3g}, held out {best:.3g}")
    first, last = before.tolist(), after.tolist()
    return Recovered(*chosen, (first[0], first[1]), (last[0], last[1]))


class _Student:
    """The parameters in training, as the model takes them.

    Attributes:
        u: place of each weight among the levels, [rows, columns].
        d: logarithm of what each scale is multiplied with, [rows, groups].
        dense: norms and biases.
    """

    def __init__(
        self, model: nn.Module, quantized: Mapping[str, QuantizedWeight], changed: Mapping[str, Tensor]
    ) -> None:
        self.items = dict(quantized)
        self.u: dict[str, Tensor] = {}
        self.d: dict[str, Tensor] = {}
        for name, item in quantized.items():
            if item.scheme.activation is None and item.codes.grid.number == "int":
                self.u[name] = _start(model.get_parameter(name), item).requires_grad_()
                self.d[name] = torch.zeros_like(item.codes.scale).requires_grad_()
        self.fixed = {name: item.restored() for name, item in quantized.items() if name not in self.u}
        self.fixed |= {name: value for name, value in changed.items() if value.dim() != 1}
        self.dense = {
            name: changed.get(name, p).detach().clone().requires_grad_()
            for name, p in model.named_parameters()
            if p.dim() == 1 and p.is_floating_point()
        }

    def optimizer(self, settings: Settings) -> torch.optim.Optimizer:
        """Adam, with a rate for each kind of parameter."""
        rates = (settings.lr, self.u), (settings.scale_lr, self.d), (settings.dense_lr, self.dense)
        groups = [{"params": list(named.values()), "lr": rate} for rate, named in rates if named]
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def weights(self) -> dict[str, Tensor]:
        """What everything stands for, with gradients."""
        return {name: self._weight(name) for name in self.u} | self.fixed | self.dense

    def _weight(self, name: str) -> Float[Tensor, "*shape"]:
        u, item = self.u[name], self.items[name]
        codes, grid = item.codes, item.codes.grid
        inside = u.clamp(grid.low, grid.high)
        q = inside + (inside.round() - inside).detach()
        if codes.zero is not None:
            q = q - grid.spread(codes.zero, u.shape[1])
        return (q * grid.spread(codes.scale * self.d[name].exp(), u.shape[1])).reshape(item.shape)

    def frozen(self) -> tuple[dict[str, QuantizedWeight], dict[str, Tensor]]:
        """Codes as they are now on scales that can be stored, and the dense parameters."""
        found = dict(self.items)
        for name, u in self.u.items():
            item, codes = self.items[name], self.items[name].codes
            scale = codes.grid.storable(codes.scale * self.d[name].detach().exp())
            zero = torch.zeros_like(scale) if codes.zero is None else codes.zero.to(scale.dtype)
            values = u.detach().clamp(codes.grid.low, codes.grid.high).round()
            made = finish(values, scale, zero, codes.grid, codes.notes)
            found[name] = QuantizedWeight(made, item.shape, item.scheme, item.input, item.passes)
        return found, {name: p.detach().clone() for name, p in self.dense.items()}

    def frozen_weights(self) -> dict[str, Tensor]:
        """What `frozen` stands for."""
        quantized, dense = self.frozen()
        return {name: item.restored() for name, item in quantized.items()} | dense


def _start(weight: Float[Tensor, "*shape"], item: QuantizedWeight) -> Float[Tensor, "rows columns"]:
    """Where each weight stands among the levels, within the cell of its code."""
    codes, q = item.codes, item.codes.values.float()
    place = weight.detach().reshape(q.shape).float() / codes.grid.spread(codes.scale, q.shape[1])
    if codes.zero is not None:
        place = place + codes.grid.spread(codes.zero, q.shape[1])
    away = place - q
    return q + torch.where(away.abs() <= 0.5, away, away.sign() * (1 - away.abs()).clamp(min=0))


@dataclass(frozen=True)
class _Told:
    """Log-probabilities [positions, choices] of each batch, and the outputs of each block, batch by batch."""

    answers: list[Tensor]
    blocks: list[list[Tensor]]


class _Watched:
    """Runs a model with other weights, and notes what its blocks put out."""

    def __init__(self, model: nn.Module, blocks: Sequence[str]) -> None:
        self.model, self.blocks = model, [model.get_submodule(name) for name in blocks]

    def __call__(self, batches: Sequence[ModelBatch], weights: Mapping[str, Tensor]) -> _Told:
        with self._noting() as noted:
            outputs = [functional_call(self.model, dict(weights), (), batch.inputs) for batch in batches]
        return _Told(_answers(outputs, batches), noted)

    @contextmanager
    def _noting(self) -> Iterator[list[list[Tensor]]]:
        noted: list[list[Tensor]] = [[] for _ in self.blocks]

        def note(place: int) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
                noted[place].append(output[0] if isinstance(output, tuple) else output)

            return hook

        handles = [block.register_forward_hook(note(place)) for place, block in enumerate(self.blocks)]
        try:
            yield noted
        finally:
            for handle in handles:
                handle.remove()


def _answers(outputs: Sequence[Any], batches: Sequence[ModelBatch]) -> list[Tensor]:
    """Log-probabilities: of every position of text, or of how each row of one kind matches all rows of the other."""
    if "logits" in outputs[0]:
        return [_said(out["logits"], batch).log_softmax(-1) for out, batch in zip(outputs, batches, strict=True)]
    pair = [name for name, value in outputs[0].items() if name.endswith("_embeds") and value.dim() == 2]
    told = next((value for name, value in outputs[0].items() if name.startswith("logits_per_")), None)
    if len(pair) != 2 or told is None:
        return []
    one, other = (torch.cat([out[name] for out in outputs]) for name in pair)
    own = outputs[0][pair[0]] @ outputs[0][pair[1]].T
    match = (
        one @ other.T * ((own * told).sum() / own.square().sum()).detach()
    )  # the temperature, from a batch of its own
    return [match.log_softmax(-1), match.T.log_softmax(-1)]


def _said(logits: Float[Tensor, "*positions choices"], batch: ModelBatch) -> Float[Tensor, "texts choices"]:
    if batch.tokens is None or batch.tokens.shape != logits.shape[:-1] or "text" not in batch.names:
        return logits.flatten(0, -2)
    return logits[batch.tokens == batch.names.index("text")]


def _divergence(told: _Told, found: _Told) -> Float[Tensor, "2"]:
    """KL of the answers, and the mean relative error of the blocks."""
    answers = blocks = torch.zeros(())
    if told.answers:
        p, q = torch.cat(told.answers), torch.cat(found.answers)
        answers = (p.exp() * (p - q)).sum(-1).mean()
    errors = [
        torch.stack([(a - b).square().sum() for a, b in zip(ours, theirs, strict=True)]).sum() / _spread(theirs)
        for ours, theirs in zip(found.blocks, told.blocks, strict=True)
        if theirs
    ]
    if errors:
        blocks = torch.stack(errors).mean()
    return torch.stack([answers, blocks])


def _spread(outputs: Sequence[Tensor]) -> Tensor:
    """Sum of squared distances from the mean vector of each batch."""
    return torch.stack([(x - x.flatten(0, -2).mean(0)).square().sum() for x in outputs]).sum()


def _split(batches: Sequence[ModelBatch], share: float) -> tuple[list[ModelBatch], list[ModelBatch]]:
    """Batches that are kept aside, evenly spread, and the others."""
    count = min(max(1, round(share * len(batches))), len(batches) - 1)
    every = {int((i + 0.5) * len(batches) / count) for i in range(count)}
    return [b for n, b in enumerate(batches) if n in every], [b for n, b in enumerate(batches) if n not in every]


def _drawn(batches: Sequence[ModelBatch], rows: int, generator: torch.Generator) -> list[ModelBatch]:
    """Batches in random order until they have so many rows."""
    found, count = list[ModelBatch](), 0
    for place in torch.randperm(len(batches), generator=generator).tolist():
        found.append(batches[place])
        count += len(next(iter(batches[place].inputs.values())))
        if count >= rows:
            break
    return found


def _mixed(batch: ModelBatch, generator: torch.Generator) -> ModelBatch:
    """The batch with everything but its text handed to other rows, a modality at a time."""
    inputs = dict(batch.inputs)
    rows = {len(value) for name, value in inputs.items() if isinstance(value, Tensor) and name in batch.modality}
    if len(rows) != 1:  # patches of all pictures in one list: whose is whose cannot be told
        return batch
    for modality in dict.fromkeys(batch.modality.values()):
        if modality != "text":
            order = torch.randperm(*rows, generator=generator)
            inputs |= {name: inputs[name][order] for name, of in batch.modality.items() if of == modality}
    return ModelBatch(inputs, batch.modality, batch.tokens, batch.names)
