"""Timing: what is counted, never how long it took."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from triptych.data.batch import Batch
from triptych.errors import InputError
from triptych.evaluate import speed


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when a call says so, in seconds."""
    now = [0.0]
    monkeypatch.setattr(speed, "perf_counter", lambda: now[0])
    return now


def taking(clock, milliseconds, calls=None, name=None):
    def call():
        if calls is not None:
            calls.append(name)
        clock[0] += next(milliseconds) / 1000

    return call


def test_percentiles_leave_out_the_warmup(clock):
    times = iter([1000.0] * 3 + list(range(1, 102)))
    found = speed.latency(taking(clock, times), repeats=101, warmup=3)
    assert found.p50_ms == pytest.approx(51)
    assert found.p95_ms == pytest.approx(96)
    assert found.repeats == 101


def test_noise_that_all_share_cancels(clock):
    slow, fast = iter([4.0, 8.0, 400.0, 4.0]), iter([1.0, 2.0, 100.0, 2.0])
    found = speed.interleaved({"before": taking(clock, slow), "after": taking(clock, fast)}, repeats=4, warmup=0)
    assert found.speedup["before"].median == 1
    assert found.speedup["after"].median == pytest.approx(4)
    assert (found.speedup["after"].low, found.speedup["after"].high) == (pytest.approx(3.5), pytest.approx(4))


def test_candidates_take_turns_and_change_places(clock):
    calls = []
    ticks = iter(lambda: 1.0, None)
    speed.interleaved({name: taking(clock, ticks, calls, name) for name in "abc"}, repeats=5, warmup=1)
    turns = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(turns) == 6
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert all(earlier != later for earlier, later in pairwise(turns))


def test_nothing_to_time_is_refused():
    with pytest.raises(InputError, match="nothing to time: 0 candidates, 200 repeats"):
        speed.interleaved({})


class Slow:
    """An engine whose calls take as long as its number of threads says."""

    name = "slow"

    def __init__(self, clock, times, threads):
        self.clock, self.times, self.threads = clock, times, threads

    def __call__(self, *_):
        self.clock[0] += self.times[self.threads]
        return np.zeros((1, 1), np.float32)


@pytest.mark.parametrize(("times", "best"), [({1: 1.0, 4: 2.0}, 1), ({1: 2.0, 4: 1.0}, 4)])
def test_the_quicker_number_of_threads_is_taken(clock, monkeypatch, times, best):
    monkeypatch.setattr(speed.torch, "get_num_threads", lambda: 4)
    batch = Batch({"x": torch.zeros(1, 1)}, torch.ones(1, 1, dtype=torch.bool), None, torch.zeros(1, dtype=torch.int64))
    assert speed.tuned(lambda threads: Slow(clock, times, threads), batch).threads == best
