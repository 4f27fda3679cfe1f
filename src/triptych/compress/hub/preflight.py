"""What a compression will take, found by doing its most expensive block for real, and the one that needs the most memory.

The samples run up to these blocks and their weights are rounded as they will be; what that took, scaled by the arithmetic of
all blocks, is the forecast. Bytes are exact: they follow from the schemes.
"""

import shutil
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from triptych import console
from triptych.compress.driver import drive, groups
from triptych.compress.hub.prepare import Prepared
from triptych.compress.journal import Journal
from triptych.evaluate.agreement import conditions
from triptych.evaluate.memory import own_peak
from triptych.structure import Settings


class Forecast(Settings):
    """The forecast.

    Attributes:
        blocks: those that were done for real.
        minutes: of the whole compression, comparison of the two models included.
        peak_bytes: resident memory at most, interpreter and libraries included.
        disk_bytes: free space that is needed: the new folder and the journal beside it.
        bytes_after: of the new folder's tensors.
    """

    blocks: list[str]
    minutes: float
    peak_bytes: int
    disk_bytes: int
    bytes_after: int


def forecast(ready: Prepared) -> Forecast:
    """Do the blocks that matter most, and scale by the arithmetic."""
    one_pass = ready.pass_seconds * len(ready.used)  # while the model is as it was
    work = ready.work
    costs = block_costs(ready)
    # Second moments are square: those of the widest input are the largest thing that is ever in memory.
    widest = max(groups(work), key=lambda group: ready.stream.model_shape(group.names[0])[1])
    blocks = sorted({max(costs, key=costs.__getitem__), widest.block})
    position = {call.name: number for number, call in enumerate(work.calls)}
    alone = replace(work, schemes={n: s for n, s in work.schemes.items() if work.block_of(n) in blocks})
    reached = max(position[name.removesuffix(".weight")] for name in alone.schemes) / len(position)
    folder = Path(tempfile.mkdtemp(prefix="triptych-"))
    try:
        with console.stage(f"do {' and '.join(blocks)} for real"):
            began = time.monotonic()
            for _ in drive(ready.stream, ready.used, alone, Journal(folder / "work", {})):
                pass
            spent = time.monotonic() - began
    finally:
        shutil.rmtree(folder)
    rounding = max(0.0, spent - one_pass * reached) * sum(costs.values()) / sum(costs[block] for block in blocks)
    compared = 2 * ready.pass_seconds * len(ready.held_out) * len(conditions(ready.held_out))
    found = ready.sizes
    rounded = sum(found.after[name] for name in work.schemes)
    return Forecast(
        blocks=blocks,
        minutes=(one_pass + compared + rounding) / 60,
        peak_bytes=own_peak(),
        disk_bytes=ready.folder.bytes - found.saved + rounded,
        bytes_after=ready.folder.bytes - found.saved,
    )


def block_costs(ready: Prepared) -> dict[str, int]:
    """Multiply-adds of rounding each block: one triangle of moments over all samples, and every column's update."""
    lengths = [
        max((x.shape[1] for x in b.inputs.values() if isinstance(x, Tensor) and x.ndim > 1), default=1)
        for b in ready.used
    ]
    costs: Counter[str] = Counter()
    for group in groups(ready.work):
        shapes = [ready.stream.model_shape(name) for name in group.names]
        costs[group.block] += shapes[0][1] ** 2 * (sum(lengths) // 2 + sum(shape[0] for shape in shapes))
    return dict(costs)


def show(found: Forecast) -> None:
    """The forecast in one line."""
    size = console.human_bytes
    console.say(
        f"about {found.minutes:.1f} minutes, {size(found.peak_bytes)} of memory at most, {size(found.disk_bytes)} of disk while it works; "
        f"the new folder holds {size(found.bytes_after)} of tensors"
    )
