"""The new folder: codes where weights were rounded, everything else as it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from triptych.compress.hub.prepare import Prepared
from triptych.compress.journal import Journal
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.export.compressed_tensors import Stored, quantization_config, stored, tensors
from triptych.export.folder import FolderWriter

REPORT = "report.json"
SHARD_BYTES = 128 * 2**20  # a shard is in memory twice while it is written


def stored_as(ready: Prepared, name: str, item: QuantizedWeight) -> Stored:
    """The layout of one rounded weight."""
    inputs: Literal["token"] | None = "token" if item.scheme.per_token else None
    return stored(item, inputs, plain=name.removesuffix(".weight") in ready.plain)


def stored_bytes(ready: Prepared, name: str, item: QuantizedWeight) -> int:
    """Bytes of everything that is stored for one rounded weight."""
    return sum(tensor.nbytes for tensor in tensors(name, item, format=stored_as(ready, name, item).format).values())


def write(
    staging: Path, original: Path, ready: Prepared, journal: Journal, report: Mapping[str, Any], card: str
) -> None:
    """The new folder: codes where weights were rounded, everything else as it was."""
    model, weights = ready.stream.model, ready.weights
    writer = FolderWriter(staging, original, shard_bytes=SHARD_BYTES)
    entries, on_disk, changed, done = dict[str, Stored](), dict[str, str](), dict[str, Tensor](), set[str]()
    for finished in journal.blocks():
        for name, item in finished.quantized.items():
            stored_name, module = weights.stored_name(name), name.removesuffix(".weight")
            entries[module] = stored_as(ready, name, item)
            if stored_name != name:
                on_disk[module] = stored_name.removesuffix(".weight")
            done.update(weights.sources[name].keys)
            for key, tensor in tensors(stored_name, item, format=entries[module].format).items():
                writer.add(key, tensor)
        changed |= finished.dense
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
    left = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in entries]
    writer.finish({"quantization_config": quantization_config(entries, left, on_disk=on_disk)}, card)
    (staging / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
