"""`--recover`: the rounded weights of a folder trained on its calibration samples; the one step that holds the whole model.

What it finds is journalled as a second run's blocks beside the first's: killed before, training starts anew from the same
rounded weights and comes to the same bytes.
"""

from functools import partial

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from triptych import console
from triptych.compress.hub.prepare import Prepared, samples
from triptych.compress.hub.request import HubRequest
from triptych.compress.journal import Finished, Journal
from triptych.compress.migration import moved
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.compress.recover import Settings, recover
from triptych.errors import InputError
from triptych.models.merge import merged

TOGETHER = 8  # samples of one shape that are learnt from, and mixed, as one batch
BYTES = (
    40  # of memory for each number in a weight: itself, its place, its gradient, two averages, what it is rounded to
)


def recovered(request: HubRequest, ready: Prepared, journal: Journal) -> Journal:
    """The journal of the finished blocks with better codes and scales, norms and biases; the stream runs with them.

    Raises:
        InputError: the model does not fit in memory with its gradients.
    """
    found = Journal(journal.work / "recovered", {"of": [finished.block for finished in journal.blocks()]})
    if len(found) < len(journal):
        _refuse_large(ready)
        _learn(request, ready, journal, found)
    for finished in found.blocks():
        for name, item in finished.quantized.items():
            ready.stream.replace(name, partial(_restored, item))
        for name, value in finished.dense.items():
            with torch.no_grad():
                ready.stream.model.get_parameter(name).copy_(value)
    return found


def _restored(item: QuantizedWeight, rows: slice) -> Tensor:
    return item.codes.rows(rows).dequantize()


def _learn(request: HubRequest, ready: Prepared, journal: Journal, into: Journal) -> None:
    done = list(journal.blocks())
    start: dict[str, QuantizedWeight] = {name: item for finished in done for name, item in finished.quantized.items()}
    changed: dict[str, Tensor] = {name: value for finished in done for name, value in finished.dense.items()}
    rows, _ = samples(ready.calibration, request)
    alike = sorted(rows, key=lambda batch: [tuple(x.shape) for x in batch.inputs.values() if isinstance(x, Tensor)])
    blocks = [block for part in ready.parts for block in part.blocks]
    settings = Settings(seed=request.seed)
    model = _whole(ready)
    moved(model, ready.stream, changed)
    found = recover(model, start, merged(alike, TOGETHER), blocks, settings, changed)
    console.say(
        f"recovered: divergence of samples kept aside {found.before[0]:.3g} -> {found.after[0]:.3g}, "
        f"of the blocks {found.before[1]:.3g} -> {found.after[1]:.3g}"
    )
    for finished in done:
        if finished.block in into:
            continue
        notes = {
            name: {**note, "notes": [*note.get("notes", ()), "recovered: the SQNR is that of before"]}
            for name, note in finished.notes.items()
        }
        dense = changed | found.dense if finished is done[0] else {}
        into.save(Finished(finished.block, {n: found.quantized[n] for n in finished.quantized}, dense, notes))


def _whole(ready: Prepared) -> nn.Module:
    """The original model in memory."""
    model: nn.Module = ready.folder.architecture.from_pretrained(ready.folder.path, dtype=torch.float32)
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", None) is not None:
            config.use_cache = False  # type: ignore[union-attr] # it is there
    return model.eval()


def _refuse_large(ready: Prepared) -> None:
    needed = BYTES * sum(parameter.numel() for parameter in ready.stream.model.parameters())
    free = psutil.virtual_memory().available
    if needed > free:
        size = console.human_bytes
        raise InputError(
            f"--recover trains the whole model in memory: about {size(needed)}, and {size(free)} are free.",
            "Leave --recover out, or use --method descent, which works block by block.",
        )
