"""How far a compressed model still answers as its original, with every modality and with each one hidden. No labels needed.

Both models see the same samples. Where they answer with a distribution (`logits`, or the similarity matrix of a dual
encoder) the divergence is KL(original || compressed) in nats, averaged over a sample's positions; elsewhere it is the
energy of the difference over the energy of the original's answer. How much a modality still counts is the divergence
that hiding it causes in a model's own answers: kept = that of the compressed model over that of the original.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from triptych.errors import InputError, NumericsError
from triptych.evaluate.bootstrap import Interval, paired_bootstrap
from triptych.models.tiny_batch import ModelBatch

POSITIONS = 64  # of a sample whose answers are compared, evenly spaced: a vocabulary a position adds up

Run = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Answers:
    """What a model answered to each sample under each condition: log-probabilities or vectors [positions, width]."""

    found: Mapping[str, Sequence[Float[Tensor, "_ width"]]]
    distribution: bool


@dataclass(frozen=True)
class Agreement:
    """How two models compare.

    Attributes:
        divergence: per sample, with all modalities (KL in nats, or relative error).
        unchanged: per sample, the share of positions whose most probable answer is the same; for vectors 1 - error.
        kept: of each modality, how much of its effect on the answers is left, with a 95 % interval.
        distribution: whether the answers are distributions.
    """

    divergence: Float64[np.ndarray, " samples"]
    unchanged: Float64[np.ndarray, " samples"]
    kept: Mapping[str, Interval]
    distribution: bool

    def whole(self, seed: int = 0) -> Interval:
        """The mean share of unchanged answers, with its 95 % interval over samples."""
        return paired_bootstrap(np.ones_like(self.unchanged), self.unchanged, seed=seed)


def conditions(batches: Sequence[ModelBatch]) -> list[str]:
    """The names "all", and "without:m" for every modality that can be hidden."""
    found = dict.fromkeys(m for batch in batches for m in batch.modality.values())
    hidden = [m for m in found if any(_hidden(batches, n, m) is not None for n in range(len(batches)))]
    return ["all", *(f"without:{m}" for m in hidden)]


def answers(run: Run, batches: Sequence[ModelBatch], asked: Sequence[str]) -> Answers:
    """Run a model on every sample under every condition.

    Raises:
        NumericsError: an answer holds NaN or infinity; names the sample and the condition.
        InputError: the model returns nothing that can be compared.
    """
    found: dict[str, list[Tensor]] = {condition: [] for condition in asked}
    distribution = True
    with torch.no_grad():
        for number in range(len(batches)):
            for condition in asked:
                inputs = _inputs(batches, number, condition)
                answer, distribution = _answer(run(inputs))
                if not bool(answer.isfinite().all()):
                    raise NumericsError(
                        f"The answer to sample {number} ({condition}) holds NaN or infinity.",
                        "Look at that sample, and at the layers with the lowest SQNR.",
                    )
                found[condition].append(answer)
    return Answers(found, distribution)


def compare(before: Answers, after: Answers, *, seed: int = 0) -> Agreement:
    """The divergence of two models' answers to the same samples."""
    pairs = list(zip(before.found["all"], after.found["all"], strict=True))
    far = _kl if before.distribution else _relative
    divergence = np.array([far(a, b) for a, b in pairs])
    if before.distribution:
        unchanged = np.array([float((a.argmax(-1) == b.argmax(-1)).double().mean()) for a, b in pairs])
    else:
        unchanged = np.clip(1 - divergence, 0, 1)
    kept = {}
    for condition in before.found:
        if condition == "all" or len(pairs) < 2:
            continue
        effects = [np.array(list(_effects(side, condition, far))) for side in (before, after)]
        if effects[0].mean() > 0:
            kept[condition.removeprefix("without:")] = paired_bootstrap(effects[0], effects[1], seed=seed)
    return Agreement(divergence, unchanged, kept, before.distribution)


def _effects(side: Answers, condition: str, far: Callable[[Tensor, Tensor], float]) -> Iterator[float]:
    for whole, without in zip(side.found["all"], side.found[condition], strict=True):
        yield far(whole, without)


def _kl(log_p: Tensor, log_q: Tensor) -> float:
    p, q = log_p.double(), log_q.double()
    return float((p.exp() * (p - q)).sum(-1).mean().clamp(min=0))


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).double().square().sum() / a.double().square().sum().clamp(min=1e-30))


def _answer(output: Any) -> tuple[Float[Tensor, "positions width"], bool]:
    """The part of a model's output that is compared, and whether it is a distribution."""
    named = dict(output.items()) if hasattr(output, "items") else {}
    for name in ("logits", "logits_per_image", "logits_per_audio"):
        logits = named.get(name)
        if isinstance(logits, Tensor) and logits.dim() >= 2 and logits.shape[-1] > 1:
            if logits.dim() == 4:  # a map of classes: [batch, classes, height, width]
                logits = logits.movedim(1, -1)
            return _some(logits).log_softmax(-1), True
    floats = [v for v in (named.values() if named else [output]) if isinstance(v, Tensor) and v.is_floating_point()]
    wide = [v for v in floats if v.dim() >= 2]
    if not wide:
        raise InputError("The model returns no tensor that can be compared.", "Compress it with --plan and no gate.")
    return _some(wide[0]), False


def _some(x: Tensor) -> Float[Tensor, "positions width"]:
    rows = x.reshape(-1, x.shape[-1]).float()
    if len(rows) <= POSITIONS:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, POSITIONS).round().long()]


def _inputs(batches: Sequence[ModelBatch], number: int, condition: str) -> dict[str, Any]:
    if condition == "all":
        return batches[number].inputs
    return {**batches[number].inputs, **(_hidden(batches, number, condition.removeprefix("without:")) or {})}


def _hidden(batches: Sequence[ModelBatch], number: int, modality: str) -> dict[str, Tensor] | None:
    """A sample's inputs of one modality without what they said: media at their mean (exact zeros may mean padding to a
    model); words stay, they say what is asked.
    """
    batch = batches[number]
    names = [name for name, m in batch.modality.items() if m == modality]
    media = [name for name in names if batch.inputs[name].is_floating_point()]
    return {name: torch.full_like(batch.inputs[name], float(batch.inputs[name].mean())) for name in media} or None
