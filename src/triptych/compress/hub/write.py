"""The new folder: codes where weights were rounded, everything else as it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from triptych.compress import plan as plans
from triptych.compress.hub import kv_cache
from triptych.compress.hub.decide import PLAN
from triptych.compress.hub.prepare import Prepared
from triptych.compress.hub.request import HubRequest
from triptych.compress.hub.sizes import stored_as
from triptych.compress.journal import Journal
from triptych.export.compressed_tensors import Stored, quantization_config, tensors
from triptych.export.folder import FolderWriter
from triptych.models.folder import Weights

REPORT = "report.json"
SHARD_BYTES = 128 * 2**20  # a shard is in memory twice while it is written


def write(
    staging: Path,
    request: HubRequest,
    ready: Prepared,
    journal: Journal,
    scales: Mapping[str, Tensor],
    report: Mapping[str, Any],
    card: str,
) -> None:
    """The new folder: codes where weights were rounded, scales of caches, everything else as it was."""
    model, weights = ready.stream.model, ready.weights
    writer = FolderWriter(staging, request.model, shard_bytes=SHARD_BYTES)
    entries, on_disk, changed, done = dict[str, Stored](), dict[str, str](), dict[str, Tensor](), set[str]()
    for finished in journal.blocks():
        for name, item in finished.quantized.items():
            stored_name, module = weights.stored_name(name), name.removesuffix(".weight")
            entries[module] = stored_as(ready.stream, name, item.scheme, ready.plain)
            if stored_name != name:
                on_disk[module] = stored_name.removesuffix(".weight")
            done.update(weights.sources[name].keys)
            for key, tensor in tensors(stored_name, item, format=entries[module].format).items():
                writer.add(key, tensor)
        changed |= finished.dense
    _add_dense(writer, ready, changed, done)
    for name, scale in scales.items():
        writer.add(_stored_name(name, weights), scale)
    left = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in entries]
    cache = kv_cache.scheme(request.kv_cache)
    said = quantization_config(entries, left, on_disk=on_disk, kv_cache_scheme=cache)
    writer.finish({"quantization_config": said}, card)
    if ready.plan is not None:
        (staging / PLAN).write_text(plans.write_plan(ready.plan), encoding="utf-8")
    (staging / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _add_dense(writer: FolderWriter, ready: Prepared, changed: Mapping[str, Tensor], done: set[str]) -> None:
    """What was not rounded: as it was, or as compression changed it."""
    weights = ready.weights
    for name, source in weights.sources.items():
        entry = weights.entry(name)
        if source.keys[0] in done:
            continue
        if name in changed:
            dtype = entry.dtype if entry is not None else torch.float32
            writer.add(weights.stored_name(name), changed[name].to(dtype))
        elif entry is not None:
            writer.copy(source.keys[0], entry)
        else:  # made from several: under the model's own name, or the loader would take it apart again
            writer.add(name, weights.read(name).to(ready.folder.entries[source.keys[0]].dtype))
            continue
        done.update(source.keys)


def _stored_name(name: str, weights: Weights) -> str:
    """The name on disk of a tensor that is new, after those of its module."""
    module = name.rpartition(".")[0]
    mate = next(other for other in weights.sources if other.startswith(f"{module}."))
    return f"{weights.stored_name(mate).removesuffix(mate[len(module) :])}{name[len(module) :]}"
