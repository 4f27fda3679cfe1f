"""`triptych compress` for a Hugging Face folder: choose by component, round block by block from disk, write, compare.

The model is never in memory as a whole. The original and the compressed model are compared by streaming both.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import torch
from torch import nn

from triptych import console
from triptych.compress import blockwise
from triptych.compress import plan as plans
from triptych.compress.calibrate import Calibration, calibration
from triptych.compress.choose import Choice, choose
from triptych.compress.coverage import coverage
from triptych.compress.driver import Work
from triptych.compress.hub.memory import total_memory
from triptych.compress.inputs.expected import accepted
from triptych.compress.lockstep import Call, trace
from triptych.compress.planner import BYTES, parse_amount
from triptych.compress.quantize.layers import LayerScheme
from triptych.errors import InputError
from triptych.export.compressed_tensors import group_for
from triptych.export.packable import unpackable
from triptych.models.components import Component, components
from triptych.models.folder import ModelFolder, Weights, find_weights, open_folder, skeleton
from triptych.models.merge import merged
from triptych.models.stream import Stream
from triptych.models.tiny_batch import ModelBatch
from triptych.registry import names
from triptych.structure import Settings

JOINED = 8  # samples of one shape that walk through the model as one batch


class HubRequest(Settings):
    """What was asked for.

    Attributes:
        model, data, out: the folder to compress, calibration data, the folder to write.
        components: scheme words by component name or pattern.
        plan: a plan file instead, whose last pass is `quantise`.
        method: of weights narrower than eight bits, where no plan says otherwise.
        rows: calibration samples; `check` more are held out to compare the models on (0: not compared).
        length: tokens a sample's text is cut to.
        recover: train codes, scales, norms and biases on the calibration samples afterwards.
        keep, keep_modality: least share of unchanged answers, and of each modality's effect on them; None: no promise.
        memory: bytes that may be resident, libraries included; None: what the system gives.
    """

    model: Path
    data: Path
    out: Path
    components: dict[str, str] = {}
    plan: Path | None = None
    method: str = "gptq"
    rows: int = 128
    check: int = 32
    length: int | None = None
    recover: bool = False
    keep: float | None = None
    keep_modality: float | None = None
    seed: int = 0
    memory: int | None = None


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
    plain: frozenset[str]  # layers that transformers cannot load packed
    pass_seconds: float  # of one forward pass of the richest sample, weights from disk


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
    apart, used = used, merged(used, JOINED)
    weights.require_finite()
    stream = Stream(model, weights, always=linear_weights(model))
    richest = max(rows.batches, key=lambda batch: len(batch.modality))
    with console.stage("find the components"):
        with accepted(model, richest, "a calibration batch"):
            stream.settle(richest.inputs)
        parts = components(model, richest)
        called = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
        began = time.monotonic()
        calls = trace(model, richest, called)
        seconds = time.monotonic() - began
    coverage(model, parts, {frozenset(batch.modality.values()): batch for batch in used}.values())
    plan = plans.read_plan(request.plan) if request.plan else None
    choice, schemes = _decide(request, plan, model, parts, calls, folder.dtype)
    drift = any(scheme.method == "gptaq" for scheme in schemes.values())
    work = Work(schemes, calls, partial(block_of, parts), drift, seed=request.seed)
    return Prepared(folder, weights, stream, rows, used, apart, held_out, parts, choice, work, plain, seconds)


def block_of(parts: Sequence[Component], name: str) -> str:
    """The block that a parameter belongs to; outside of blocks, its module's parent within its component."""
    for part in parts:
        if part.owns(name):
            for block in part.blocks:
                if name.startswith(f"{block}."):
                    return block
            return f"{part.name}: {name.rpartition('.')[0].rpartition('.')[0]}"
    return name


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


def _decide(
    request: HubRequest,
    plan: plans.Plan | None,
    model: nn.Module,
    parts: Sequence[Component],
    calls: Sequence[Call],
    dtype: torch.dtype,
) -> tuple[Choice, dict[str, LayerScheme]]:
    """What becomes of every weight: from the plan's words or the request's, with groups that readers of the format take."""
    method, wanted = request.method, dict(request.components)
    by_layer: dict[str, str] = {}
    if plan is not None:
        step = plan.passes[-1]
        if len(plan.passes) != 1 or not isinstance(step, plans.Quantise):
            raise InputError(f"{request.plan} does more than quantise, which is not done to a model of this kind yet.")
        method, by_layer, wanted = step.method, step.layers, {**step.components, **wanted}
    known = sorted({*names("quantizer"), blockwise.METHOD})
    if method not in known:
        raise InputError(f"There is no method {method!r} of choosing codes.", f"There are: {', '.join(known)}.")
    choice = choose(model, parts, {call.name for call in calls}, wanted)
    _refuse_unreached(model, parts, wanted)
    for name, word in by_layer.items():
        if name not in choice.component:
            raise InputError(
                f"The plan names the layer {name!r}, which is not in the model.", "See `triptych inspect`."
            )
        if word != "fp32" and name in choice.dense and choice.dense[name] != "left dense by the plan":
            raise InputError(f"The plan rounds {name}, which cannot be: {choice.dense[name]}.", "Leave it fp32.")
        choice.layers.pop(name, None)
        choice.dense.pop(name, None)
        choice.layers.update({name: word} if word != "fp32" else {})
        choice.dense.update({name: "left dense by the plan"} if word == "fp32" else {})
    scales = "bfloat16" if dtype == torch.bfloat16 else "float16"
    schemes, axes = {}, {f"{call.name}.weight": call.axes for call in calls}
    for name, word in choice.layers.items():
        scheme = plans.scheme(word, method)
        if scheme.per_token and axes[name] != 3:
            # Readers of the format find a token's range in [batch, tokens, width] alone.
            scheme = scheme.model_copy(update={"activation": None, "per_token": False})
        assert scheme.weight is not None
        group = group_for(model.get_parameter(name).shape[1], scheme.weight.group)
        # Integer kernels may want positive scales, and AutoRound's bounds do.
        mirrored = scheme.weight.symmetric and not scheme.activation and method != blockwise.METHOD
        grid = scheme.weight.model_copy(update={"group": group, "scales": scales, "mirrored": mirrored})
        # The error of eight bits is far below that of rounded inputs; to the nearest is enough.
        rounding = "rtn" if grid.bits == 8 and scheme.activation else _method(method, name, parts)
        schemes[name] = scheme.model_copy(update={"weight": grid, "method": rounding})
    return choice, schemes


def _method(method: str, name: str, parts: Sequence[Component]) -> str:
    """What chooses the codes of a weight where `method` was asked for."""
    in_block = any(name.startswith(f"{block}.") for part in parts for block in part.blocks)
    # Of a layer alone AutoRound never bettered GPTQ's codes (docs/lab/LOG.md).
    return "gptq" if method == blockwise.METHOD and not in_block else method


def _refuse_unreached(model: nn.Module, parts: Sequence[Component], wanted: Mapping[str, str]) -> None:
    """A stack of blocks that no sample reached would be left as it is without a word."""
    for part in parts:
        if part.role != "unused" or any(fnmatchcase(part.name, pattern) for pattern in wanted):
            continue
        stacks = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1 and part.owns(n)]
        if stacks:
            raise InputError(
                f"No calibration sample reached {stacks[0]} ({part.parameters:,} parameters that nothing calls).",
                f"Add rows of the modality that it reads, or say that it stays: --component '{part.name}=fp32'.",
            )


def read_components(words: Sequence[str]) -> dict[str, str]:
    """`NAME=SCHEME` of the command line.

    Raises:
        InputError: a word without "=".
    """
    found = {}
    for word in words:
        name, equals, scheme = word.partition("=")
        if not (name and equals and scheme):
            raise InputError(f"--component {word!r} is not NAME=SCHEME.", "Write decoder=w4g64, for example.")
        found[name] = scheme
    return found


def read_share(text: str | None) -> float | None:
    """A share such as "99%"; None where none was given."""
    return None if text is None else parse_amount(text, 1.0, {}, "share to keep")


def read_bytes(text: str | None) -> int | None:
    """An amount of memory such as "3GB", or a share of the machine's; None where none was given."""
    return None if text is None else int(parse_amount(text, total_memory(), BYTES, "amount of memory"))
