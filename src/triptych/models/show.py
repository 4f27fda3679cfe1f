"""`triptych inspect`: a model's components and layers for people and as JSON, from its folder alone or with rows of data."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from torch import nn
from transformers import PreTrainedModel

from triptych import console
from triptych.compress.calibrate import calibration
from triptych.compress.inputs.expected import accepted
from triptych.compress.quantize.storage import to_tensors
from triptych.models.components import Component, components, tensor_bytes
from triptych.models.folder import find_weights, is_ours, open_folder, skeleton, stored_bytes
from triptych.models.remote import read_remote
from triptych.models.store import Loaded, read_model
from triptych.models.stream import RESIDENT, Stream
from triptych.models.summary import summarize
from triptych.models.tiny_batch import ModelBatch, tiny_batch

DRAWN = 8  # rows of data, of which the one with the most modalities is looked at
ALL = 1 << 62  # numbers in a parameter: more than any has, so all stay in memory


def describe(path: Path, data: Path | None = None, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Components, the shapes of their layers, and for a model of our own the names that a plan may use.

    Args:
        path: folder of a model of ours, or of any model in Hugging Face form.
        data: a table whose rows go through the model's own processor, or tensors by argument of forward, as
            `calibration` reads them; None for a batch that is made up. Models of ours need none.
        trust_remote_code: run the code that the folder brings, where it brings some.

    Raises:
        InputError: the folder or the data cannot be read, or no batch can be made for the model; the message says why.
    """
    if not path.is_dir() or is_ours(path):
        if data is not None:
            console.say("the inputs of a model that was built here have one shape each: rows of data tell nothing new")
        return describe_ours(read_model(path))
    if trust_remote_code and (model := read_remote(path)) is not None:
        parts = components(model, _batch(model, path, data), latency=True)
        return _describe(model, parts, {part.name: part.bytes for part in parts})
    folder = open_folder(path, rounded=True)
    model = skeleton(folder)
    weights = find_weights(folder, model)
    needed = sum(4 * p.numel() for p in model.parameters())
    fits = needed < psutil.virtual_memory().available // 2
    stream = Stream(model, weights, resident=ALL if fits else RESIDENT)
    batch = _batch(model, path, data)
    with accepted(model, batch, "a row of the data" if data else "a batch made up for it"):
        stream.settle(batch.inputs)
    parts = components(model, batch, latency=fits)  # the time of a model that is read from disk says nothing
    sizes = stored_bytes(model, weights)
    return _describe(model, parts, {part.name: tensor_bytes(part, sizes) for part in parts})


def _batch(model: PreTrainedModel, path: Path, data: Path | None) -> ModelBatch:
    """What the model is run on: the richest of a few rows, or what its signature and config tell."""
    if data is None:
        return tiny_batch(model, path)
    rows = calibration(path, data, rows=DRAWN, model=model)
    return max(rows.batches, key=lambda batch: len(set(batch.modality.values())))


def describe_ours(loaded: Loaded) -> dict[str, Any]:
    """The same for a model of ours, with its weight layers one by one, its widths, droppable blocks and low-bit weights."""
    model = loaded.model
    rows = summarize(model)
    parts = components(model, latency=True)
    dense = {n: t.numel() * t.element_size() for n, t in model.state_dict().items() if n not in loaded.quantized}
    codes = {n: to_tensors({n: item})[0].values() for n, item in loaded.quantized.items()}
    sizes = dense | {name: sum(t.numel() * t.element_size() for t in tensors) for name, tensors in codes.items()}
    return {
        **_describe(model, parts, {part.name: tensor_bytes(part, sizes) for part in parts}),
        "macs": sum(row.macs for row in rows),
        "layers": [
            {"name": r.name, "kind": r.kind, "output": r.output, "parameters": r.parameters, "macs": r.macs}
            for r in rows
        ],
        "widths": {width.name: width.units for width in model.widths()},
        "blocks": model.droppable(),
        "quantized": {
            name: {"bits": q.scheme.weight.bits if q.scheme.weight else None, "activation": q.scheme.activation}
            for name, q in loaded.quantized.items()
        },
    }


def shapes(model: nn.Module, parts: list[Component]) -> list[dict[str, Any]]:
    """The kinds of weight layers in each component, with the shape of their weights and how many there are."""
    counted: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
    met: set[int] = set()
    for path, module in model.named_modules():
        own = {name: p for name, p in module.named_parameters(recurse=False) if id(p) not in met}
        met |= {id(p) for p in own.values()}
        if not own:  # or all of it is another's, as in a tied head
            continue
        name = next(iter(own))
        owner = next((part.name for part in parts if part.owns(f"{path}.{name}".lstrip("."))), "")
        shape = max((tuple(p.shape) for p in own.values()), key=len)
        counted[owner, type(module).__name__, shape] += 1
    order = [part.name for part in parts]
    rows = sorted(counted.items(), key=lambda item: order.index(item[0][0]))
    return [{"component": c, "kind": kind, "shape": shape, "count": count} for (c, kind, shape), count in rows]


def _describe(model: nn.Module, parts: list[Component], sizes: Mapping[str, int]) -> dict[str, Any]:
    macs = sum(part.macs for part in parts)
    return {
        "parameters": sum(part.parameters for part in parts),
        "bytes": sum(sizes.values()),
        "macs": macs,
        "components": [
            {
                "name": part.name,
                "role": part.role,
                "modalities": part.modalities,
                "parameters": part.parameters,
                "bytes": sizes[part.name],
                "blocks": part.blocks,
                "flops": 2 * part.macs,
                "flops_share": part.macs / macs if macs else None,
                "latency_share": part.latency,
                "tied_to": part.tied_to,
            }
            for part in parts
        ],
        "shapes": shapes(model, parts),
    }


def show(description: dict[str, Any]) -> None:
    """Two tables and a line of totals."""
    console.table(
        "components",
        ["component", "role", "modalities", "blocks", "parameters", "bytes", "FLOPs", "latency"],
        [
            [
                c["name"],
                c["role"],
                ", ".join(c["modalities"]),
                len(c["blocks"]),
                f"{c['parameters']:,}",
                console.human_bytes(c["bytes"]),
                f"{console.human_count(c['flops'])} ({_percent(c['flops_share'])})" if c["flops"] else "",
                _percent(c["latency_share"]),
            ]
            for c in description["components"]
        ],
    )
    console.table(
        "layers",
        ["component", "layer", "weight", "count"],
        [[r["component"], r["kind"], " x ".join(map(str, r["shape"])), r["count"]] for r in description["shapes"]],
    )
    for c in description["components"]:
        if c["tied_to"]:
            console.say(f"{c['name']} uses a weight of {c['tied_to']}, where it is counted")
        if c["role"] == "unused":
            console.say("unused: never called for the batch that was tried; it would stay as it is")
    console.say(f"{description['parameters']:,} parameters, {console.human_bytes(description['bytes'])}")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
