"""From a budget to a plan: how narrow, and how many bits for each layer.

Rounding to 8 bits is nearly free, narrowing has to be healed by distillation; so bits are spent first. For widths from the full
model downwards, an exact solver (`budget.solve`) chooses the bits of every layer so that the summed harm is least within the bytes.
The widest model whose rounding does little harm, and which is fast enough when built and timed here, is the plan. The next ones on
that list are what the gate falls back to.

Harm of an option: tr(dW H dW^T), the error of the layer's outputs under the real rounding, in units of KL: each layer's slope is
measured once, by rounding that layer alone to few bits and running the model.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from triptych import console
from triptych.compress import passes
from triptych.compress import plan as plans
from triptych.compress.budget import Option, solve
from triptych.compress.passes import Surroundings
from triptych.compress.prune.allocation import allocate
from triptych.compress.quantize.grid import output_error
from triptych.compress.quantize.layers import WeightView, weights
from triptych.compress.quantize.moments import collect
from triptych.compress.quantize.rounding import quantize_weight
from triptych.data.batch import Batch
from triptych.engines import Engine
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import BudgetError
from triptych.evaluate.size import size_bytes
from triptych.evaluate.speed import latency, tuned
from triptych.models.fusion_model import FusionModel
from triptych.models.store import write_model
from triptych.structure import Settings, Width

WIDTHS = (1.0, 0.85, 0.7, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2, 0.15)
SCHEMES = ("w8a8", "w6a8", "w5a8", "w4a8")
WEIGHT_ONLY = ("w8g32", "w4g32")  # embeddings and recurrent layers have no integer products
TOLERANCE = 0.02  # nats of KL that rounding may cost in all before narrowing is preferred
BESIDE = 12_000  # bytes of the plan, the manifest and the SQNRs that will stand beside the model's own files


class Budget(Settings):
    """What the compressed model may cost; None is no limit.

    Bytes are those of the model folder. Latency is that of one sample, in milliseconds, or as a share of the original's in
    PyTorch fp32, which is measured when the plan is made.
    """

    size_bytes: int | None = None
    latency_ms: float | None = None
    latency_share: float | None = None


@dataclass
class Candidate:
    """A width and the bits chosen for it."""

    share: float
    keep: dict[str, int]
    layers: dict[str, str]
    size_bytes: int
    harm: float
    latency_ms: float = float("nan")


@dataclass
class Survey:
    """What is measured once on the original and serves every candidate."""

    scores: dict[str, Tensor]
    costs: dict[str, float]
    harms: dict[str, dict[str, float]]
    widths: dict[str, int] = field(default_factory=dict)


def make_plan(
    around: Surroundings, budget: Budget, *, distil: plans.Distil, model_sha256: str, count: int = 2
) -> list[plans.Plan]:
    """Plans that meet the budget, the preferred one first.

    Args:
        around: the original and the rows.
        budget: what may be spent.
        distil: how a narrowed model is healed.
        model_sha256: of the original, written into the plan.
        count: how many plans at most.

    Raises:
        BudgetError: nothing fits; says the smallest that does.
    """
    budget = in_milliseconds(around, budget)
    survey = look(around)
    found: list[Candidate] = []
    with console.progress("plan", len(WIDTHS), unit="width") as advance:
        for share in WIDTHS:
            made = _candidate(around, survey, share, budget)
            advance(1, note=f"width {share:.0%}")
            if made is None or (made[0].harm > TOLERANCE and share != WIDTHS[-1]):
                continue
            candidate, state = made
            if budget.latency_ms is not None:
                candidate.latency_ms = timed(around, state)
                if candidate.latency_ms > budget.latency_ms:
                    continue
            found.append(candidate)
            if len(found) == count:
                break
    if not found:
        raise _nothing_fits(around, survey, budget)
    return [_as_plan(c, distil, model_sha256, steps=distil.steps * (1 if i == 0 else 2)) for i, c in enumerate(found)]


def in_milliseconds(around: Surroundings, budget: Budget) -> Budget:
    """The budget with its share of the original's latency measured."""
    if budget.latency_share is None:
        return budget
    whole = _quickest(lambda threads: TorchEngine(around.teacher, threads=threads), around.calibration(1)[0])
    return budget.model_copy(update={"latency_ms": budget.latency_share * whole})


def look(around: Surroundings) -> Survey:
    """Score the units, and measure what each rounding of each layer costs, on calibration rows."""
    model = around.teacher
    batches = around.calibration(256)
    scores = passes.importances(model, "taylor", batches)
    folded = copy.deepcopy(model)
    passes.fold_norms(folded, batches[0])
    names = list(weights(folded))
    statistics = collect(folded, map(passes.call, batches), names)
    reference = _outputs(folded, batches)
    harms: dict[str, dict[str, float]] = {}
    with console.progress("measure sensitivity", len(names), unit="layer") as advance:
        for name in names:
            harms[name] = _harms(folded, name, statistics[name], batches, reference)
            advance(1, note=name)
    widths = {width.name: width for width in model.widths()}
    rows = sum(len(batch.presence) for batch in batches)
    positions = {name: found.tokens / rows for name, found in statistics.items()}
    costs = {name: _unit_cost(folded, width, positions) for name, width in widths.items()}
    return Survey(scores, costs, harms, {name: width.units for name, width in widths.items()})


def narrowed(around: Surroundings, keep: Mapping[str, int], survey: Survey) -> FusionModel:
    """A copy of the original with these widths; its weights are only good for counting and timing."""
    model = copy.deepcopy(around.teacher)
    units = {n: survey.scores[n].argsort(descending=True, stable=True)[:k].sort().values for n, k in keep.items()}
    passes.narrow(model, {w.name: w for w in model.widths() if w.name in keep}, units, None)
    return model


def built(around: Surroundings, survey: Survey, candidate: Candidate) -> passes.State:
    """The candidate with its real shapes and grids, rounded to nearest: good for counting and timing, not for answers."""
    state = passes.State(narrowed(around, candidate.keep, survey))
    step = plans.Quantise(method="rtn", rows=8, range="minmax", layers=candidate.layers)
    with console.muted():
        passes.quantise(state, step, around)
    return state


def timed(around: Surroundings, state: passes.State) -> float:
    """Milliseconds of one sample through a built candidate, compiled and run here."""
    batch = around.calibration(1)[0]
    example = (batch.inputs, batch.presence)
    return _quickest(lambda threads: OpenVINOEngine(state.model, example, state.quantized, threads), batch)


def _quickest(make: Callable[[int], Engine], batch: Batch) -> float:
    """Milliseconds of a call of the engine with its best threads."""
    engine = tuned(make, batch)
    return latency(partial(engine, batch.inputs, batch.presence)).p50_ms


def stored(around: Surroundings, state: passes.State) -> int:
    """Bytes of a built candidate's folder."""
    with TemporaryDirectory() as folder:
        write_model(Path(folder), state.model, around.rows.processor, state.quantized)
        return size_bytes(Path(folder)) + BESIDE


def _candidate(
    around: Surroundings, survey: Survey, share: float, budget: Budget
) -> tuple[Candidate, passes.State] | None:
    """The best bits at a width, built; None where even the fewest bits are too many bytes."""
    keep = _kept_units(survey, share)
    model = narrowed(around, keep, survey)
    passes.fold_norms(model, around.calibration(2)[0])
    options = {
        name: [Option(s, {"bytes": _bytes(view, s)}, survey.harms[name][s]) for s in schemes_for(view)]
        for name, view in weights(model).items()
    }
    limit = np.inf if budget.size_bytes is None else float(budget.size_bytes)
    fixed = 0.0  # bytes beside the codes: known once a candidate is built, then taken off the limit
    while True:
        try:
            choice = solve(options, {"bytes": limit}, {"bytes": fixed})
        except BudgetError:
            return None
        layers = {name: option.name for name, option in choice.options.items()}
        candidate = Candidate(share, keep, layers, 0, choice.loss)
        state = built(around, survey, candidate)
        candidate.size_bytes = stored(around, state)
        if candidate.size_bytes <= limit:
            return candidate, state
        fixed += candidate.size_bytes - limit if fixed else candidate.size_bytes - choice.costs["bytes"]


def _kept_units(survey: Survey, share: float) -> dict[str, int]:
    """How many units of each width stay, where not all do; channels in multiples of 8 for the kernels."""
    if share >= 1:
        return {}
    multiple = {name: 8 if units >= 32 else 1 for name, units in survey.widths.items()}  # heads one by one
    chosen = allocate(survey.scores, survey.costs, share, floor=share / 2, multiple=multiple)
    return {name: len(units) for name, units in chosen.items() if len(units) < survey.widths[name]}


def _harms(model: FusionModel, name: str, statistics: Any, batches: list[Batch], reference: Tensor) -> dict[str, float]:
    """Predicted KL of each scheme: the rounding's output error times the layer's measured slope."""
    view = weights(model)[name]
    rounded = {
        s: quantize_weight(view, plans.scheme(s, "rtn"), statistics, search="minmax").codes for s in schemes_for(view)
    }
    errors = {s: output_error(view.matrix, codes.dequantize(), statistics.moment) for s, codes in rounded.items()}
    coarsest = list(rounded)[-1]
    original = view.parameter.detach().clone()
    with torch.no_grad():
        view.parameter.copy_(rounded[coarsest].dequantize().reshape(original.shape))
        drift = _drift(model, _outputs(model, batches), reference)
        view.parameter.copy_(original)
    slope = max(drift, 0.0) / max(errors[coarsest], 1e-30)
    return {text: error * slope for text, error in errors.items()}


def schemes_for(view: WeightView) -> tuple[str, ...]:
    """The schemes the planner chooses from: integer products where kernels have them, weight-only groups elsewhere."""
    return SCHEMES if view.kind in {"linear", "convolution"} else WEIGHT_ONLY


def _bytes(view: WeightView, text: str) -> int:
    grid = plans.scheme(text, "rtn").weight
    assert grid is not None  # the planner offers no dense option
    return grid.size_bytes(*view.shape)


@torch.no_grad()
def _outputs(model: FusionModel, batches: list[Batch]) -> Tensor:
    return torch.cat([model(b.inputs, b.presence, labels=b.labels).logits.flatten(0, -2) for b in batches])


def _drift(model: FusionModel, outputs: Tensor, reference: Tensor) -> float:
    """How far answers moved: KL in nats between classes; for numbers half the squared change over the variance (a Gaussian's KL); or
    as the task says.
    """
    divergence: Any = getattr(model.task, "divergence", None)
    if divergence is not None:
        return float(divergence(outputs, reference))
    if getattr(model.task, "numbers", False):
        return float(0.5 * (outputs - reference).square().mean() / reference.var().clamp(min=1e-12))
    return float(F.kl_div(outputs.log_softmax(1), reference.log_softmax(1), log_target=True, reduction="batchmean"))


def _unit_cost(model: FusionModel, width: Width, positions: Mapping[str, float]) -> float:
    """What a unit owns of the model's parameters and of its multiplications, the mean of the two shares.

    Early channels are few parameters that are multiplied at many positions, late ones the reverse; a budget may limit bytes and
    milliseconds, and a narrow model has to be narrow in both.
    """
    sizes = {name: view.parameter.numel() for name, view in weights(model).items()}
    products = {name: size * positions[name] for name, size in sizes.items()}
    owned = {member.parameter for member in (*width.producers, *width.consumers)} & sizes.keys()
    shares = [sum(counts[name] for name in owned) / sum(counts.values()) for counts in (sizes, products)]
    return sum(shares) / 2 / width.units


def _as_plan(candidate: Candidate, distil: plans.Distil, sha256: str, steps: int) -> plans.Plan:
    steps_of: list[Any] = []
    if candidate.keep:
        steps_of += [plans.Prune(keep=candidate.keep), distil.model_copy(update={"steps": steps})]
    steps_of.append(plans.Quantise(layers=candidate.layers))
    predicted = {"bytes": float(candidate.size_bytes), "kl_of_rounding": candidate.harm}
    if np.isfinite(candidate.latency_ms):
        predicted["latency_ms"] = candidate.latency_ms
    why = (
        f"the widest model that fits ({candidate.share:.0%} of the prunable weights), "
        f"with rounding predicted to cost {candidate.harm:.4f} nats"
    )
    return plans.Plan(model=sha256, why=why, predicted=predicted, passes=tuple(steps_of))


def _nothing_fits(around: Surroundings, survey: Survey, budget: Budget) -> BudgetError:
    fewest = {name: min(harm, key=lambda s: int(s[1])) for name, harm in survey.harms.items()}
    smallest = Candidate(WIDTHS[-1], _kept_units(survey, WIDTHS[-1]), fewest, 0, 0.0)
    state = built(around, survey, smallest)
    parts = []
    if budget.size_bytes is not None:
        parts.append(f"{stored(around, state):,} bytes")
    if budget.latency_ms is not None:
        parts.append(f"{timed(around, state):.3f} ms")
    return BudgetError(
        f"No plan meets the budget: the smallest that is possible here is {' and '.join(parts)}.", "Raise the budget."
    )
