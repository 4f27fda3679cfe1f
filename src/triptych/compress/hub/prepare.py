"""`triptych compress` for a Hugging Face folder: choose by component, round block by block from disk, write, compare.

The model is never in memory as a whole. The original and the compressed model are compared by streaming both.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import nn

from triptych import console
from triptych.compress import plan as plans
from triptych.compress.calibrate import Calibration, calibration
from triptych.compress.choose import Choice
from triptych.compress.coverage import coverage
from triptych.compress.driver import DRIFTING, Work
from triptych.compress.hub.decide import (
    Known,
    asked_for,
    beside,
    block_of,
    decide,
    migration,
    remembered,
    weighed,
    within,
)
from triptych.compress.hub.modalities import choose_weights
from triptych.compress.hub.request import HubRequest
from triptych.compress.hub.sizes import Sizes, sizes
from triptych.compress.inputs.expected import accepted
from triptych.compress.lockstep import trace
from triptych.export.packable import unpackable
from triptych.models.components import Component, components
from triptych.models.folder import ModelFolder, Weights, find_weights, open_folder, skeleton
from triptych.models.merge import merged
from triptych.models.shorten import shortened
from triptych.models.stream import Stream
from triptych.models.tiny_batch import ModelBatch

HELD = 1 << 29  # bytes of weights that stay in memory while the components are looked for, which takes some passes
JOINED = 8  # samples of one shape that walk through the model as one batch


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before any weight is rounded."""

    folder: ModelFolder
    weights: Weights
    stream: Stream
    calibration: Calibration
    used: Sequence[ModelBatch]
    apart: Sequence[ModelBatch]  # the same samples, one by one
    held_out: Sequence[ModelBatch]
    parts: list[Component]
    choice: Choice
    work: Work
    sizes: Sizes
    plan: plans.Plan | None  # that was read, or made for a budget
    plain: frozenset[str]  # layers that transformers cannot load packed

    @cached_property
    def pass_seconds(self) -> float:
        """Of one forward pass of the richest sample, weights from disk."""
        richest = max(self.apart, key=lambda batch: len(batch.modality))
        began = time.monotonic()
        with torch.no_grad():
            self.stream.model(**richest.inputs)
        return time.monotonic() - began


def prepare(request: HubRequest) -> Prepared:
    """Open the folder, find its components with real rows, decide about every weight.

    Raises:
        InputError, ArtifactError: the folder, the data or the plan cannot be used; the message says why.
    """
    folder = open_folder(request.model)
    model = skeleton(folder)
    plain = unpackable(model)
    weights = find_weights(folder, model)
    rows = calibration(
        request.model, request.data, rows=request.rows + request.check, length=request.length, seed=request.seed
    )
    used, held_out = samples(rows, request)
    each = {frozenset(batch.modality.values()): batch for batch in used}  # one sample of each kind
    apart, used = used, merged(used, JOINED)
    weights.require_finite()
    stream = Stream(model, weights, always=linear_weights(model))
    richest = shortened(max(rows.batches, key=lambda batch: len(batch.modality)))
    with console.stage("find the components"):
        with accepted(model, richest, "a calibration batch"):
            stream.settle(richest.inputs)
        with stream.held(HELD if request.memory is None else 0):
            parts = components(model, richest)
            called = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
            calls = trace(model, richest, called)
            coverage(model, parts, map(shortened, each.values()))
    known = Known(stream, weights, parts, calls, plain)
    plan, choice, work = _planned(request, known, apart, rows.sha256, richest)
    counted = sizes(stream, weights, work.schemes, plain, beside(request, model))
    return Prepared(folder, weights, stream, rows, used, apart, held_out, parts, choice, work, counted, plan, plain)


def _planned(
    request: HubRequest, known: Known, rows: Sequence[ModelBatch], sha256: str, richest: ModelBatch
) -> tuple[plans.Plan | None, Choice, Work]:
    """The plan, where there is one, and what it comes to. A plan that is found by measuring is found once."""
    plan = plans.read_plan(request.plan) if request.plan else None
    if request.size is None and request.modality_weights is None:
        return plan, *_work(request, plan, known, richest)
    key, made = remembered(request, known.weights.folder, sha256)
    if made is None:
        made = plan or asked_for(request)
        if request.size is not None:
            made = within(request, known, merged(rows, JOINED))
        if request.modality_weights is not None:
            _, work = _work(request, made, known, richest)
            made = weighed(made, *choose_weights(known.stream, rows, work, known.parts))
        made = made.model_copy(update={"model": key})
    return made, *_work(request, made, known, richest)


def _work(request: HubRequest, plan: plans.Plan | None, known: Known, richest: ModelBatch) -> tuple[Choice, Work]:
    """What is decided about every weight, and the driver's work that it makes."""
    choice, schemes = decide(request, plan, known)
    drift = any(scheme.method in DRIFTING for scheme in schemes.values())
    moved = migration(request, plan, known, richest, schemes)
    step = None if plan is None else plan.passes[-1]
    weights = step.modality_weights if isinstance(step, plans.Quantise) else {}
    return choice, Work(schemes, known.calls, partial(block_of, known.parts), drift, weights, request.seed, moved)


def linear_weights(model: nn.Module) -> set[str]:
    """Weights of layers that are called (those of torch's own attention are read without a call)."""
    inside = {id(child) for m in model.modules() if isinstance(m, nn.MultiheadAttention) for child in m.modules()}
    return {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) not in inside}


def samples(rows: Calibration, request: HubRequest) -> tuple[list[ModelBatch], list[ModelBatch]]:
    """Calibration samples, and held-out ones that are evenly spread over the draw."""
    batches = list(rows.batches)
    check = min(request.check, len(batches) // 4)
    if not check:
        return batches, []
    every = {round((i + 0.5) * len(batches) / check) for i in range(check)}
    used = [batch for number, batch in enumerate(batches) if number not in every]
    return used, [batch for number, batch in enumerate(batches) if number in every]
