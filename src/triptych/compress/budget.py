"""One option for each layer, so that the summed loss is least and every budget is met: a multiple-choice knapsack.

minimise   sum_l loss(l, o_l)   subject to   fixed_k + sum_l cost_k(l, o_l) <= limit_k for every cost k

Solved exactly by branch and bound (HiGHS, through ``scipy.optimize.milp``). A choice carries two proofs of how good it
is: the solver's bound, and Lagrange prices from which anybody can recompute a bound with `lower_bound`, with no solver.
"""

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from triptych.errors import BudgetError, InputError, NumericsError

Vector = NDArray[Any]
Amount = int | float  # bytes are whole and times are not; a run-time type check takes no int for a float

LOSS_RANGE = 1e5  # losses are scaled to this: HiGHS stops at an absolute gap of 1e-6, which small losses would all meet
COST_RANGE = 1 << 13  # costs too: HiGHS lets a limit be overstepped by 1e-6, which is then 1e-10 of the dearest option
SOLVED, INFEASIBLE = 0, 2  # status codes of scipy.optimize.milp


class Option(NamedTuple):
    """One thing that may be done to a layer.

    Args:
        name: what stands in the plan, unique within the layer.
        costs: what it costs, by cost name (``bytes``, ``latency_ms``, ...).
        loss: the harm it does, in any one unit for all layers.
    """

    name: str
    costs: Mapping[str, Amount]
    loss: Amount


Table = Mapping[str, Sequence[Option]]


@dataclass(frozen=True)
class Choice:
    """The option chosen for each layer, and the proof of how good the choice is.

    Attributes:
        options: the chosen option by layer.
        loss: summed loss of the options.
        costs: total of each limited cost, the fixed part included.
        bound: no choice within the limits has a loss below this.
        prices: loss saved by one more unit of each limited cost, at the margin (the Lagrange multipliers); 0 where a
            limit does not bind.
    """

    options: dict[str, Option]
    loss: float
    costs: dict[str, float]
    bound: float
    prices: dict[str, float] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """How much better a choice could be at most; 0 when this one is proven best."""
        return max(0.0, self.loss - self.bound)


def solve(
    options: Table,
    limits: Mapping[str, Amount],
    fixed: Mapping[str, Amount] | None = None,
    *,
    original: Mapping[str, Amount] | None = None,
    seconds: Amount = 60.0,
) -> Choice:
    """The choice of one option per layer with the least summed loss within every limit.

    Args:
        options: what may be done to each layer.
        limits: the most each cost may be in total; costs without a limit are ignored.
        fixed: what is spent whatever is chosen, by cost.
        original: what percentages in messages refer to; the dearest choice where a cost is not given.
        seconds: when this time is up the best choice so far is returned, with its gap.

    Raises:
        BudgetError: no choice meets the limits; the message says the smallest that is possible.
        InputError: a layer has no option, an option lacks a limited cost, or a number is not finite.
    """
    spent = dict(fixed or {})
    _check(options, limits, spent)
    problem = _Problem(options, limits, spent)
    _refuse_impossible(problem, original or {})
    if not problem.rows:
        return Choice({}, 0.0, {k: problem.total(k, []) for k in limits}, 0.0, dict.fromkeys(limits, 0.0))
    room, bound, ceiling = problem.room, -math.inf, math.inf
    for _ in range(20):
        search = problem.minimise(problem.losses, room, seconds, ceiling)
        if search.status == INFEASIBLE:
            if math.isinf(bound):
                _refuse_together(problem, original or {}, seconds)
            break
        if search.chosen is None:
            raise BudgetError(
                f"No choice within the limits was found in {seconds:g} s.",
                "Allow more seconds, or fewer options per layer.",
            )
        if room is problem.room:  # a bound on less than the whole problem would prove nothing
            bound = max(bound, search.bound + problem.least_loss)
        chosen = [problem.rows[i] for i in search.chosen]
        over = np.array([problem.total(k, chosen) - limits[k] for k in problem.names])
        if (over > 0).any():
            room = room - np.maximum(over, 0)  # the solver's tolerance let a limit slip; a promised byte may not
            continue
        loss = math.fsum(problem.losses[search.chosen])
        if search.status != SOLVED or loss > search.largest / 2 or loss == 0:
            return _choice(problem, chosen, bound)
        # no larger loss can be part of a better choice, and without those the next look is sharper
        ceiling = loss * (1 + 1e-9)
    raise NumericsError("The solver kept overstepping the limits by rounding.", "Round the costs to whole units.")


def frontier(
    options: Table,
    cost: str,
    points: int,
    *,
    limits: Mapping[str, Amount] | None = None,
    fixed: Mapping[str, Amount] | None = None,
) -> list[Choice]:
    """Best choices at evenly spaced limits of one cost, from the smallest possible to where more of it no longer helps.

    Args:
        options: what may be done to each layer.
        cost: the cost whose limit is moved.
        points: how many limits to try, at least 2; equal neighbours come back once.
        limits: limits of other costs, which hold everywhere.
        fixed: what is spent whatever is chosen.

    Returns:
        Choices in order of rising cost and falling loss.
    """
    if points < 2:
        raise InputError(f"A frontier needs at least 2 points, not {points}.", "Ask for 2 or more.")
    others = dict(limits or {})
    _check(options, {cost: 0.0, **others}, fixed or {})
    by_cost = {layer: [o._replace(loss=o.costs[cost]) for o in choices] for layer, choices in options.items()}
    low = solve(by_cost, {cost: math.inf, **others}, fixed).costs[cost]
    high = solve(options, {cost: math.inf, **others}, fixed).costs[cost]
    choices: list[Choice] = []
    for limit in np.linspace(low, high, points):
        choice = solve(options, {**others, cost: float(limit)}, fixed)
        if not choices or choice.loss < choices[-1].loss:
            choices.append(choice)
    return choices


def lower_bound(
    options: Table,
    limits: Mapping[str, Amount],
    prices: Mapping[str, Amount],
    fixed: Mapping[str, Amount] | None = None,
) -> float:
    """Lagrange's bound: whatever is chosen within the limits, the summed loss is at least this.

    sum_l min_o (loss + sum_k price_k cost_k) - sum_k price_k (limit_k - fixed_k), which holds for any prices >= 0 and
    is plain enough to check by hand.
    """
    spent = fixed or {}
    held = {k: p for k, p in prices.items() if p > 0}
    least = [
        min(o.loss + sum(p * o.costs[k] for k, p in held.items()) for o in choices) for choices in options.values()
    ]
    return math.fsum([*least, *(-p * (limits[k] - spent.get(k, 0.0)) for k, p in held.items())])


class _Search(NamedTuple):
    """What the solver says: the chosen row of each layer, its bound on the objective, and the largest entry of that."""

    status: int
    chosen: list[int] | None
    bound: float
    largest: float


class _Problem:
    """The knapsack as arrays: one row per useful option, costs and losses above each layer's least."""

    def __init__(self, options: Table, limits: Mapping[str, Amount], fixed: Mapping[str, Amount]) -> None:
        self.options, self.limits, self.fixed = options, limits, fixed
        self.names = list(limits)
        self.rows: list[Option] = []
        self.starts = [0]
        costs, losses = [np.zeros((0, len(self.names)))], [np.zeros(0)]
        for choices in options.values():
            table = np.array([[o.costs[k] for k in self.names] for o in choices]).reshape(len(choices), len(self.names))
            loss = np.array([o.loss for o in choices])
            useful = _undominated(table, loss)
            self.rows += [choices[i] for i in useful]
            self.starts.append(len(self.rows))
            costs.append(table[useful] - table[useful].min(0))
            losses.append(loss[useful] - loss[useful].min())
        self.costs, self.losses = np.concatenate(costs), np.concatenate(losses)
        self.least_loss = math.fsum(min(o.loss for o in choices) for choices in options.values())
        self.room = np.array([max(0.0, limits[k] - self.smallest(k)) for k in self.names])
        layer = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        self.one_each = csr_array(
            (np.ones(len(layer)), (layer, np.arange(len(layer)))), shape=(len(options), len(layer))
        )

    def minimise(self, objective: Vector, room: Vector, seconds: Amount, ceiling: Amount = math.inf) -> _Search:
        """The choice with the least summed objective, from the options whose objective is at most `ceiling`."""
        usable = (objective <= ceiling) & (self.costs <= np.maximum(room, 0) * (1 + 1e-9)).all(1)
        costs, objective = np.where(usable[:, None], self.costs, 0.0), np.where(usable, objective, 0.0)
        largest = float(objective.max())
        scale, unit = LOSS_RANGE / (largest or 1.0), _units(costs)
        constraints = [LinearConstraint(self.one_each, 1, 1)]
        if self.names:
            constraints.append(LinearConstraint((costs * unit).T, -np.inf, room * unit))
        with _quiet():
            found = milp(
                objective * scale,
                integrality=np.ones(len(objective)),
                bounds=Bounds(0, usable),
                constraints=constraints,
                options={"mip_rel_gap": 0.0, "time_limit": seconds},
            )
        if found.x is None:
            return _Search(found.status, None, -math.inf, largest)
        spans = zip(self.starts[:-1], self.starts[1:], strict=True)
        chosen = [start + int(found.x[start:stop].argmax()) for start, stop in spans]
        return _Search(found.status, chosen, float(found.mip_dual_bound) / scale, largest)

    def total(self, name: str, chosen: Sequence[Option]) -> float:
        """What a choice costs, the fixed part included; exact for whole numbers."""
        return math.fsum([self.fixed.get(name, 0.0), *(option.costs[name] for option in chosen)])

    def smallest(self, name: str) -> float:
        """The least that a cost can be, whatever that does to the others."""
        return self.total(name, [min(choices, key=_by(name)) for choices in self.options.values()])

    def prices(self) -> dict[str, float]:
        """Lagrange multipliers of the relaxed problem, in which a layer may mix options."""
        finite = [i for i, room in enumerate(self.room) if math.isfinite(room)]
        prices = dict.fromkeys(self.names, 0.0)
        if not finite:
            return prices
        scale, unit = LOSS_RANGE / (float(self.losses.max()) or 1.0), _units(self.costs)
        relaxed = linprog(
            self.losses * scale,
            A_ub=(self.costs * unit).T[finite],
            b_ub=(self.room * unit)[finite],
            A_eq=self.one_each,
            b_eq=np.ones(self.one_each.shape[0]),
            bounds=(0, 1),
            method="highs",
        )
        if relaxed.status == 0:
            for i, marginal in zip(finite, relaxed.ineqlin.marginals, strict=True):
                prices[self.names[i]] = max(0.0, -float(marginal)) * float(unit[i]) / scale
        return prices


def _choice(problem: _Problem, chosen: list[Option], bound: float) -> Choice:
    options = dict(zip(problem.options, chosen, strict=True))
    loss = math.fsum(option.loss for option in chosen)
    costs = {k: problem.total(k, chosen) for k in problem.names}
    prices = problem.prices()
    proven = max(bound, lower_bound(problem.options, problem.limits, prices, problem.fixed))
    return Choice(options, loss, costs, min(proven, loss), prices)


@contextmanager
def _quiet() -> Iterator[None]:
    """No output from C code: HiGHS prints a line for its developers, which would spoil what a program writes."""
    if os.name != "posix" or sys.stdout is None:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C has printed so far still waits in its own buffer
        os.dup2(saved, 1)
        os.close(saved)


def _units(costs: Vector) -> Vector:
    """What each cost is multiplied by to reach COST_RANGE: powers of two, so that whole numbers stay exact."""
    largest = costs.max(0, initial=0.0)
    return np.exp2(np.floor(np.log2(COST_RANGE / np.where(largest > 0, largest, 1.0))))


def _undominated(costs: Vector, loss: Vector) -> list[int]:
    """Options that no other beats in loss and every cost; of equals the first."""
    everything = np.column_stack([loss, costs])
    kept: list[int] = []
    for i in np.lexsort((np.arange(len(loss)), *costs.T[::-1], loss)):  # whoever dominates comes earlier
        if not (everything[kept] <= everything[i]).all(1).any():
            kept.append(int(i))
    return sorted(kept)


def _by(cost: str) -> Callable[[Option], Amount]:
    return lambda option: option.costs[cost]


def _check(options: Table, limits: Mapping[str, Amount], fixed: Mapping[str, Amount]) -> None:
    for name, amount in [*limits.items(), *fixed.items()]:
        if math.isnan(amount):
            raise InputError(f"The {name} budget is not a number.", "Give a finite amount.")
    for layer, choices in options.items():
        if not choices:
            raise InputError(f"Layer {layer!r} has no option.", "Give it at least the option of being left as it is.")
        if len({o.name for o in choices}) < len(choices):
            raise InputError(f"Layer {layer!r} has two options of one name.", "Name each option differently.")
        for option in choices:
            _check_numbers(f"option {option.name!r} of layer {layer!r}", option, limits)


def _check_numbers(where: str, option: Option, limits: Mapping[str, Amount]) -> None:
    for cost in limits:
        if cost not in option.costs:
            raise InputError(f"The {where} has no cost {cost!r}.", "Measure it, or lift that limit.")
    for what, number in {"loss": option.loss, **{k: option.costs[k] for k in limits}}.items():
        if not math.isfinite(number):
            raise InputError(f"The {what} of {where} is {number}.", "Leave that option out.")


def _refuse_impossible(problem: _Problem, original: Mapping[str, Amount]) -> None:
    """Raise when a limit alone is below what the cheapest options cost."""
    lines = []
    for name in problem.names:
        smallest = problem.smallest(name)
        if smallest > problem.limits[name]:
            lines.append(
                f"{_amount(name, problem.limits[name])} cannot be met: {_smallest(problem, name, smallest, original)}."
            )
    if lines:
        raise BudgetError(" ".join(lines), "Raise the budget, or allow stronger options.")


def _refuse_together(problem: _Problem, original: Mapping[str, Amount], seconds: Amount) -> None:
    """Raise when each limit could be met alone but not all at once."""
    lines = []
    finite = [i for i, room in enumerate(problem.room) if math.isfinite(room)]
    for i in finite:
        name, room = problem.names[i], problem.room.copy()
        room[i] = np.inf
        search = problem.minimise(problem.costs[:, i], room, seconds)
        if search.chosen is not None:
            smallest = problem.total(name, [problem.rows[j] for j in search.chosen])
            lines.append(f"if only {name} may grow, {_smallest(problem, name, smallest, original)}")
    asked = " and ".join(_amount(problem.names[i], problem.limits[problem.names[i]]) for i in finite)
    raise BudgetError(
        f"{asked} cannot be met together; {'; '.join(lines)}.", "Raise one of the budgets, or allow stronger options."
    )


def _smallest(problem: _Problem, name: str, smallest: Amount, original: Mapping[str, Amount]) -> str:
    dearest = problem.total(name, [max(c, key=_by(name)) for c in problem.options.values()])
    whole = original.get(name, dearest)
    share = f" ({100 * smallest / whole:.1f} %)" if whole > 0 else ""
    return f"the smallest that is possible is {_amount(name, smallest)}{share}"


def _amount(name: str, value: Amount) -> str:
    if name.endswith("bytes"):
        return f"{math.ceil(value):,} {name.replace('_', ' ')}"
    if name.endswith("_ms"):
        return f"{value:,.4g} ms {name.removesuffix('_ms')}".replace("_", " ")
    return f"{value:,.6g} {name}"
