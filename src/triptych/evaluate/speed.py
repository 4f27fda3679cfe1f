"""Latency of single calls: percentiles of one, and ratios between several that share the machine's noise.

A machine's speed drifts with its clock, its neighbours and its caches, by far more than the differences worth knowing. So candidates
take turns, call by call, and are compared within each turn: what slows one turn slows all of them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter

import numpy as np
import torch

from triptych.data.batch import Batch
from triptych.engines import Engine
from triptych.errors import InputError
from triptych.structure import Settings


class Latency(Settings):
    """Milliseconds a call takes: the median and the value that 95 % of the calls stay below."""

    p50_ms: float
    p95_ms: float
    repeats: int


class Ratio(Settings):
    """How often faster than the first candidate one is: the median over turns, and the middle half of the turns."""

    median: float
    low: float
    high: float


class Comparison(Settings):
    """Latencies by name, and every candidate's speed-up over the first one (above 1 is faster)."""

    latency: dict[str, Latency]
    speedup: dict[str, Ratio]


def latency(call: Callable[[], object], repeats: int = 200, warmup: int = 20) -> Latency:
    """Times a call, after some that do not count."""
    return interleaved({"call": call}, repeats, warmup).latency["call"]


def tuned(make: Callable[[int], Engine], batch: Batch) -> Engine:
    """The engine with as many threads as answer this batch soonest: one, or as many as PyTorch may use.

    The products of a small model are over before a second thread has woken up, so more threads are often slower.

    Args:
        make: an engine with so many threads.
        batch: what it is to be quick at, most often a single sample.
    """
    engines = {str(count): make(count) for count in sorted({1, torch.get_num_threads()})}
    if len(engines) > 1:
        calls = {name: partial(engine, batch.inputs, batch.presence) for name, engine in engines.items()}
        latencies = interleaved(calls, repeats=10, warmup=1, block=5, settle=2).latency
        return engines[min(latencies, key=lambda name: latencies[name].p50_ms)]
    return next(iter(engines.values()))


def side_by_side(
    makers: Mapping[str, Callable[[int], Engine]], batch: Batch
) -> tuple[dict[str, Latency], dict[str, int]]:
    """Latency of the same batch in several engines that take turns, each with its best threads; and how many those are."""
    engines = {name: tuned(make, batch) for name, make in makers.items()}
    calls = {name: partial(engine, batch.inputs, batch.presence) for name, engine in engines.items()}
    latencies = interleaved(calls, repeats=30, warmup=3, block=10, settle=5).latency
    return latencies, {name: engine.threads or torch.get_num_threads() for name, engine in engines.items()}


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: int = 200, warmup: int = 20, block: int = 1, settle: int = 0
) -> Comparison:
    """Times several calls in turns; the order turns round every time, so that none always follows the same neighbour.

    Args:
        calls: candidates by name; the first is what the others are compared with.
        repeats: turns that count.
        warmup: turns before them that do not.
        block: calls that a candidate times in its turn.
        settle: calls before them that do not count. Engines keep threads spinning and caches filled for a while after a
            call; without settling a candidate is timed in its neighbour's wake rather than in steady use.

    Raises:
        InputError: nothing to time.
    """
    if not calls or repeats < 1:
        raise InputError(
            f"There is nothing to time: {len(calls)} candidates, {repeats} repeats.", "Give at least one of each."
        )
    names = list(calls)
    seconds = np.empty((repeats, len(names), block))
    for turn in range(-warmup, repeats):
        for place in range(len(names)):
            which = (place + turn) % len(names)
            call = calls[names[which]]
            for _ in range(settle):
                call()
            for timed in range(block):
                start = perf_counter()
                call()
                seconds[max(turn, 0), which, timed] = perf_counter() - start
    percentiles = np.percentile(seconds * 1000, [50, 95], axis=(0, 2))
    turns = np.median(seconds, axis=2)
    speedups = np.percentile(turns[:, :1] / turns, [50, 25, 75], axis=0)
    return Comparison(
        latency={
            name: Latency(p50_ms=p50, p95_ms=p95, repeats=repeats * block)
            for name, p50, p95 in zip(names, *percentiles, strict=True)
        },
        speedup={
            name: Ratio(median=m, low=low, high=high) for name, m, low, high in zip(names, *speedups, strict=True)
        },
    )
