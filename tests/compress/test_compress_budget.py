import ctypes
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import milp

from triptych.compress import budget
from triptych.compress.budget import Option, frontier, lower_bound, solve
from triptych.errors import BudgetError, InputError


def table(**layers):
    """layer -> [(name, bytes, loss), ...] as options that also have a latency of a tenth of the bytes."""
    return {
        layer: [Option(name, {"bytes": size, "latency_ms": size / 10}, loss) for name, size, loss in rows]
        for layer, rows in layers.items()
    }


OPTIONS = table(
    vision=[("float", 100, 0.0), ("int8", 50, 1.0), ("int4", 25, 5.0)],
    text=[("float", 100, 0.0), ("int8", 50, 3.0), ("int4", 25, 4.0)],
)


def names(choice):
    return {layer: option.name for layer, option in choice.options.items()}


def test_the_best_choice_is_taken():
    choice = solve(OPTIONS, {"bytes": 150})
    assert names(choice) == {"vision": "int8", "text": "float"}
    assert choice.loss == 1.0
    assert choice.costs == {"bytes": 150}
    assert choice.gap == pytest.approx(0, abs=1e-9)


def test_a_limit_that_is_met_exactly_is_met():
    assert names(solve(OPTIONS, {"bytes": 75})) == {"vision": "int8", "text": "int4"}
    assert names(solve(OPTIONS, {"bytes": 74.999})) == {"vision": "int4", "text": "int4"}


def test_what_is_fixed_counts_against_the_limit():
    choice = solve(OPTIONS, {"bytes": 200}, {"bytes": 50})
    assert choice.costs["bytes"] == 200
    assert names(choice) == {"vision": "int8", "text": "float"}


def test_every_limit_holds():
    choice = solve(OPTIONS, {"bytes": 1000, "latency_ms": 7.5})
    assert choice.costs["latency_ms"] <= 7.5
    assert choice.prices["bytes"] == 0
    assert choice.prices["latency_ms"] > 0


def test_without_limits_each_layer_takes_its_least_loss():
    assert names(solve(OPTIONS, {})) == {"vision": "float", "text": "float"}


def test_no_layers():
    choice = solve({}, {"bytes": 10}, {"bytes": 4})
    assert (choice.options, choice.costs, choice.loss, choice.gap) == ({}, {"bytes": 4}, 0, 0)


def test_prices_prove_a_bound_by_hand():
    choice = solve(OPTIONS, {"bytes": 110})
    price = choice.prices["bytes"]
    by_hand = sum(min(o.loss + price * o.costs["bytes"] for o in layer) for layer in OPTIONS.values()) - price * 110
    assert lower_bound(OPTIONS, {"bytes": 110}, choice.prices) == pytest.approx(by_hand)
    assert by_hand <= choice.loss + 1e-12
    assert choice.bound >= by_hand - 1e-12


def test_tiny_losses_are_still_solved_exactly():
    small = {layer: [Option(o.name, o.costs, o.loss * 1e-12) for o in options] for layer, options in OPTIONS.items()}
    assert names(solve(small, {"bytes": 75})) == {"vision": "int8", "text": "int4"}


def test_costs_of_any_size_never_overstep_the_limit():
    for unit in (1e-9, 1.0, 3e9):
        options = {
            f"layer{i}": [Option(str(j), {"bytes": unit * (j + 1) * (7 + i)}, 1 / (j + 1)) for j in range(6)]
            for i in range(12)
        }
        limit = unit * 431
        assert solve(options, {"bytes": limit}).costs["bytes"] <= limit


def test_an_impossible_budget_says_the_smallest_possible():
    options = {"a": [Option("float", {"bytes": 8_000_000}, 0.0), Option("int4", {"bytes": 400_000}, 1.0)]}
    with pytest.raises(BudgetError) as caught:
        solve(options, {"bytes": 300_000}, {"bytes": 12_345}, original={"bytes": 8_085_196})
    assert str(caught.value) == (
        "300,000 bytes cannot be met: the smallest that is possible is 412,345 bytes (5.1 %). "
        "Raise the budget, or allow stronger options."
    )


def test_without_an_original_the_share_is_of_the_dearest_choice():
    with pytest.raises(
        BudgetError, match=r"40 bytes cannot be met: the smallest that is possible is 50 bytes \(25\.0 %\)"
    ):
        solve(OPTIONS, {"bytes": 40})


def test_each_impossible_cost_is_named():
    with pytest.raises(
        BudgetError, match=r"10 bytes cannot .* 1 ms latency cannot be met: .* is 5 ms latency \(25\.0 %\)"
    ):
        solve(OPTIONS, {"bytes": 10, "latency_ms": 1.0})


def test_limits_that_conflict_say_what_would_help():
    options = {
        "a": [Option("small", {"bytes": 10, "latency_ms": 9}, 1), Option("fast", {"bytes": 90, "latency_ms": 1}, 1)]
    }
    with pytest.raises(BudgetError) as caught:
        solve(options, {"bytes": 50, "latency_ms": 5})
    assert str(caught.value).startswith(
        "50 bytes and 5 ms latency cannot be met together; if only bytes may grow, the smallest that is possible is "
        "90 bytes (100.0 %); if only latency_ms may grow, the smallest that is possible is 9 ms latency (100.0 %)."
    )


@pytest.mark.parametrize(
    ("options", "limits", "message"),
    [
        ({"a": []}, {}, "Layer 'a' has no option"),
        ({"a": [Option("x", {}, 0), Option("x", {}, 1)]}, {}, "Layer 'a' has two options of one name"),
        ({"a": [Option("x", {}, 0)]}, {"bytes": 1}, "option 'x' of layer 'a' has no cost 'bytes'"),
        ({"a": [Option("x", {}, math.nan)]}, {}, "The loss of option 'x' of layer 'a' is nan"),
        ({"a": [Option("x", {"bytes": math.inf}, 0)]}, {"bytes": 1}, "The bytes of option 'x' of layer 'a' is inf"),
        ({"a": [Option("x", {"bytes": 1}, 0)]}, {"bytes": math.nan}, "The bytes budget is not a number"),
    ],
)
def test_bad_tables_are_refused_by_name(options, limits, message):
    with pytest.raises(InputError, match=message):
        solve(options, limits)


def test_the_frontier_runs_from_the_smallest_to_the_best():
    choices = frontier(OPTIONS, "bytes", 7)
    sizes = [choice.costs["bytes"] for choice in choices]
    losses = [choice.loss for choice in choices]
    assert (sizes[0], sizes[-1]) == (50, 200)
    assert losses[-1] == 0
    assert sizes == sorted(set(sizes))
    assert losses == sorted(losses, reverse=True)


def test_the_frontier_keeps_other_limits():
    choices = frontier(OPTIONS, "bytes", 3, limits={"latency_ms": 12.5}, fixed={"bytes": 1})
    assert choices[-1].costs == {"latency_ms": 12.5, "bytes": 126}


def test_a_frontier_needs_two_points():
    with pytest.raises(InputError, match="at least 2 points, not 1"):
        frontier(OPTIONS, "bytes", 1)


@pytest.mark.skipif(os.name != "posix", reason="needs the C library's fflush")
def test_the_solver_writes_nothing(capfd):
    rng = np.random.default_rng(31)  # a problem in which HiGHS 1.12 prints a line for its developers
    options, costs = {}, rng.integers(100, 10000, 8).tolist()
    for i, cost in enumerate(costs):
        losses = np.sort(rng.random(120) ** 3).cumsum()[::-1].tolist()
        options[f"w{i}"] = [Option(str(j), {"bytes": (j + 1) * cost}, loss) for j, loss in enumerate(losses)]
    solve(options, {"bytes": 60 * sum(costs)})
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr() == ("", "")


def test_losses_of_many_sizes_are_solved_exactly():
    """A loss that can be avoided must not blur those that decide."""
    options = {"loud": [Option("float", {"bytes": 100}, 0.0), Option("int4", {"bytes": 10}, 1e6)]}
    for i in range(30):
        options[f"quiet{i}"] = [Option(str(j), {"bytes": 8 - j}, 1e-9 * (1 + (7 * i) % 11) * j**1.5) for j in range(8)]
    choice = solve(options, {"bytes": 250})
    alone = solve({k: v for k, v in options.items() if k != "loud"}, {"bytes": 150})
    assert choice.options["loud"].name == "float"
    assert choice.loss == pytest.approx(alone.loss, rel=1e-9)
    assert choice.gap <= 1e-9 * choice.loss


def test_running_out_of_time_is_said(monkeypatch):
    answer = SimpleNamespace(status=1, x=None)
    monkeypatch.setattr(budget, "milp", lambda *_args, **_settings: answer)
    with pytest.raises(BudgetError, match=r"No choice within the limits was found in 0\.5 s\. Allow more seconds"):
        solve(OPTIONS, {"bytes": 75}, seconds=0.5)


def test_a_choice_cut_short_says_how_far_it_may_be_from_the_best(monkeypatch):
    def interrupted(*args, **settings):
        found = milp(*args, **settings)
        return SimpleNamespace(status=1, x=np.array([0, 0, 1, 0, 0, 1]), mip_dual_bound=0.5 * found.mip_dual_bound)

    monkeypatch.setattr(budget, "milp", interrupted)
    choice = solve(OPTIONS, {"bytes": 75})
    assert choice.loss == 9
    assert choice.bound <= 5 + 1e-9
    assert choice.gap == choice.loss - choice.bound


def test_a_limit_that_the_solver_lets_slip_is_tightened(monkeypatch):
    calls = []

    def sloppy(*args, **settings):
        calls.append(None)
        found = milp(*args, **settings)
        if len(calls) == 1:
            found.x = np.array([1.0, 0, 0, 1, 0, 0])  # everything in float: 200 bytes
        return found

    monkeypatch.setattr(budget, "milp", sloppy)
    choice = solve(OPTIONS, {"bytes": 199})
    assert len(calls) > 1
    assert choice.costs["bytes"] <= 199
