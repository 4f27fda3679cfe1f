"""What becomes of every weight of a folder: by a plan, by the words of the request, or within a budget of bytes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn

from triptych.compress import blockwise
from triptych.compress import plan as plans
from triptych.compress.amounts import BYTES, parse_amount
from triptych.compress.choose import DENSE, Choice, choose, ladder
from triptych.compress.driver import Work
from triptych.compress.hub.kv_cache import caches
from triptych.compress.hub.request import HubRequest, work_folder
from triptych.compress.hub.sizes import stored_as
from triptych.compress.lockstep import Call
from triptych.compress.migration import Migration
from triptych.compress.quantize.layers import LayerScheme
from triptych.errors import InputError
from triptych.export.compressed_tensors import group_for, stored_bytes
from triptych.models.components import Component
from triptych.models.folder import ModelFolder, Weights, fingerprint
from triptych.models.folder import stored_bytes as dense_bytes
from triptych.models.readers import readers
from triptych.models.stream import Stream
from triptych.models.tiny_batch import ModelBatch
from triptych.registry import names

PLAN = "plan.yaml"


@dataclass(frozen=True)
class Known:
    """What is known of a model before anything is decided."""

    stream: Stream
    weights: Weights
    parts: list[Component]
    calls: list[Call]
    plain: frozenset[str]  # layers that transformers cannot load packed


def decide(request: HubRequest, plan: plans.Plan | None, known: Known) -> tuple[Choice, dict[str, LayerScheme]]:
    """What becomes of every weight: from the plan's words or the request's.

    Raises:
        InputError: a word, a name or a method that is not there.
    """
    method, wanted = request.method, dict(request.components)
    by_layer: dict[str, str] = {}
    if plan is not None:
        step = plan.passes[-1]
        if len(plan.passes) != 1 or not isinstance(step, plans.Quantise):
            raise InputError(f"{request.plan} does more than quantise, which is not done to a model of this kind yet.")
        method, by_layer, wanted = step.method, step.layers, {**step.components, **wanted}
    _refuse_unknown(method)
    model, parts = known.stream.model, known.parts
    choice = choose(model, parts, {call.name for call in known.calls}, wanted)
    _refuse_unreached(model, parts, wanted)
    for name, word in by_layer.items():
        if name not in choice.component:
            raise InputError(
                f"The plan names the layer {name!r}, which is not in the model.", "See `triptych inspect`."
            )
        if word != DENSE and name in choice.dense and choice.dense[name] != "left dense by the plan":
            raise InputError(f"The plan rounds {name}, which cannot be: {choice.dense[name]}.", "Leave it fp32.")
        choice.layers.pop(name, None)
        choice.dense.pop(name, None)
        choice.layers.update({name: word} if word != DENSE else {})
        choice.dense.update({name: "left dense by the plan"} if word == DENSE else {})
    return choice, _schemes(choice.layers, method, known)


def asked_for(request: HubRequest) -> plans.Plan:
    """The plan that the words of a request come to."""
    step = plans.Quantise(method=request.method, migrate=request.migrate, components=dict(request.components))
    return plans.Plan(passes=(step,))


def weighed(plan: plans.Plan, weights: Mapping[str, float], tried: Sequence[Mapping[str, Any]]) -> plans.Plan:
    """A plan in which the tokens of each modality count so much, with what was found of each candidate."""
    step = plan.passes[-1].model_copy(update={"modality_weights": dict(weights)})
    found = ", ".join(f"{one['power']:g}: {one['divergence']:.4g}" for one in tried)
    why = "; ".join(
        filter(None, [plan.why, f"held-out divergence by the power that modalities are weighed with: {found}"])
    )
    return plan.model_copy(update={"why": why, "passes": (step,)})


def remembered(request: HubRequest, folder: ModelFolder, sha256: str) -> tuple[str, plans.Plan | None]:
    """What names a plan that is made for this, and the plan itself where an earlier run has left one."""
    asked = request.model_dump(mode="json", exclude={"out", "keep", "keep_modality", "recover", "memory"})
    key = hashlib.sha256(json.dumps([asked, fingerprint(folder), sha256]).encode()).hexdigest()
    for path in (request.out / PLAN, work_folder(request.out) / PLAN):
        if path.is_file() and (made := plans.read_plan(path)).model == key:
            return key, made
    return key, None


def within(request: HubRequest, known: Known, batches: Sequence[ModelBatch]) -> plans.Plan:
    """The plan that serves best within the budget of bytes.

    Args:
        request: whose named components keep their words.
        known: the model.
        batches: calibration samples.

    Raises:
        BudgetError: nothing fits; says the smallest that does.
        InputError: no size, or a plan besides.
    """
    from triptych.compress.hub.allocate import allocate  # brings a solver, which is slow to import

    if request.size is None or request.plan is not None:
        raise InputError("--plan says how many bits each layer has, and so would --size.", "Give one of them.")
    _refuse_unknown(request.method)
    stream, weights, folder = known.stream, known.weights, known.weights.folder
    limit = int(parse_amount(request.size, folder.bytes, BYTES, "size"))
    every = choose(stream.model, known.parts, {call.name for call in known.calls}, {"*": "w8", **request.components})
    ladders = {part.name: ladder(part, request.components) for part in known.parts}
    options: dict[str, dict[str, LayerScheme]] = {name: {} for name in every.layers}
    for word in dict.fromkeys(word for words in ladders.values() for word in words):
        words = {name: word for name in options if word in ladders[every.component[name]]}
        schemes = dict.fromkeys(words, LayerScheme()) if word == DENSE else _schemes(words, request.method, known)
        for name, scheme in schemes.items():
            options[name][word] = scheme
    before = dense_bytes(stream.model, weights)

    def count(name: str, scheme: LayerScheme) -> int:
        if scheme.weight is None:
            return before[name]
        return stored_bytes(stream.model_shape(name), stored_as(stream, name, scheme, known.plain))

    some = {name: next(s for s in words.values()) for name, words in options.items()}
    work = Work(some, known.calls, partial(block_of, known.parts))
    fixed = folder.bytes - sum(before[name] for name in options) + beside(request, stream.model)
    found = allocate(stream, batches, work, options, every.component, count, (limit, fixed, folder.bytes))
    return plans.Plan(
        why=f"{found.bytes:,} of {limit:,} bytes, with a predicted divergence of {found.divergence:.3g}",
        predicted={"bytes": float(found.bytes), "divergence": found.divergence},
        passes=(plans.Quantise(method=request.method, migrate=request.migrate, layers=dict(found.layers)),),
    )


def beside(request: HubRequest, model: nn.Module) -> int:
    """Bytes of the new folder's tensors that stand for nothing in the old one: two scales a cache."""
    return 8 * len(caches(model)) if request.kv_cache else 0


def migration(
    request: HubRequest, plan: plans.Plan | None, known: Known, batch: ModelBatch, schemes: Mapping[str, LayerScheme]
) -> Migration | None:
    """Which scales may move where, if that is asked for; `batch` has every modality.

    Raises:
        InputError: the method does not go with it.
    """
    step = None if plan is None else plan.passes[-1]
    kind = request.migrate or (step.migrate if isinstance(step, plans.Quantise) else None)
    if kind is None:
        return None
    if any(scheme.method == blockwise.METHOD for scheme in schemes.values()):
        raise InputError("AutoRound learns blocks as they are, without scales that move.", "Use --method gptq.")
    found = readers(known.stream.model, batch.inputs)
    return Migration(kind, {frozenset(f"{layer}.weight" for layer in layers): n for n, layers in found.items()})


def block_of(parts: Sequence[Component], name: str) -> str:
    """The block that a parameter belongs to; outside of blocks, its module's parent within its component."""
    for part in parts:
        if part.owns(name):
            for block in part.blocks:
                if name.startswith(f"{block}."):
                    return block
            return f"{part.name}: {name.rpartition('.')[0].rpartition('.')[0]}"
    return name


def _schemes(words: Mapping[str, str], method: str, known: Known) -> dict[str, LayerScheme]:
    """What the words mean for these weights, with groups and scales that readers of the format take."""
    scales = "bfloat16" if known.weights.folder.dtype == torch.bfloat16 else "float16"
    schemes, axes = {}, {f"{call.name}.weight": call.axes for call in known.calls}
    for name, word in words.items():
        scheme = plans.scheme(word, method)
        if scheme.per_token and axes[name] != 3:
            # Readers of the format find a token's range in [batch, tokens, width] alone.
            scheme = scheme.model_copy(update={"activation": None, "per_token": False})
        assert scheme.weight is not None
        group = group_for(known.stream.model_shape(name)[1], scheme.weight.group)
        # Integer kernels may want positive scales, and AutoRound's bounds do.
        integer = scheme.weight.number == "int"
        mirrored = integer and scheme.weight.symmetric and not scheme.activation and method != blockwise.METHOD
        grid = scheme.weight.model_copy(update={"group": group, "scales": scales, "mirrored": mirrored})
        # The error of eight bits is far below that of rounded inputs; to the nearest is enough.
        rounding = "rtn" if grid.bits == 8 and scheme.activation else _method(method, name, known.parts)
        schemes[name] = scheme.model_copy(update={"weight": grid, "method": rounding if integer else "float8"})
    return schemes


def _method(method: str, name: str, parts: Sequence[Component]) -> str:
    """What chooses the codes of a weight where `method` was asked for."""
    in_block = any(name.startswith(f"{block}.") for part in parts for block in part.blocks)
    # Of a layer alone AutoRound never bettered GPTQ's codes (docs/lab/LOG.md).
    return "gptq" if method == blockwise.METHOD and not in_block else method


def _refuse_unknown(method: str) -> None:
    there = sorted({*names("quantizer"), blockwise.METHOD} - {"float8"})  # the word f8 asks for that
    if method not in there:
        raise InputError(f"There is no method {method!r} of choosing codes.", f"There are: {', '.join(there)}.")


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
