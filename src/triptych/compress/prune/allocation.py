"""How many units each width keeps, so that the least importance is lost for what is saved.

Within a width the most important units stay. Between widths, scores are compared as shares of their width's sum, so
that a tower of small gradients is not wiped out for a loud one. The counts are exact optima of the budget solver:

minimise   sum_w lost_w / importance_w   subject to   sum_w cost_w kept_w <= fraction * sum_w cost_w units_w

A matrix between two pruned widths shrinks in both directions; its cost is counted here as if linear in each, which
overstates what is left, so that the pruned model is at most as large as the budget says.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from triptych.compress.budget import Amount, Option, solve
from triptych.errors import InputError, NumericsError

COST = "units of cost"


def allocate(
    scores: Mapping[str, Float[Tensor, "_"]],
    costs: Mapping[str, Amount],
    budget_fraction: Amount,
    floor: Amount = 0.1,
    multiple: int | Mapping[str, int] = 4,
) -> dict[str, Int64[Tensor, "_"]]:
    """The units to keep, ascending, by name of the width.

    Args:
        scores: importance of each unit, not negative.
        costs: what one unit of a width costs, in one currency for all widths (bytes, multiplications, ...).
        budget_fraction: share of the summed cost that may be kept, above 0 and at most 1.
        floor: least share of its units that a width keeps.
        multiple: counts of kept units are multiples of this (fast kernels work on blocks of channels), or all units;
            one number, or one by width (1 where a unit is a whole attention head).

    Raises:
        InputError: a width has no cost, or a setting is out of range.
        NumericsError: a score is negative or not finite.
        BudgetError: the floors alone cost more than the budget; the message says the smallest possible.
    """
    if not (0 < budget_fraction <= 1 and 0 <= floor <= 1):
        raise InputError(
            f"A budget of {budget_fraction:g} with a floor of {floor:g} is not a share.", "Give shares from 0 to 1."
        )
    options: dict[str, list[Option]] = {}
    whole = 0.0
    for name, score in scores.items():
        if name not in costs:
            raise InputError(f"Width {name!r} has no cost per unit.", "Give the cost of one unit of each scored width.")
        step = multiple if isinstance(multiple, int) else multiple.get(name, 1)
        options[name] = _options(name, score, costs[name], floor, step)
        whole += len(score) * costs[name]
    choice = solve(options, {COST: budget_fraction * whole}, original={COST: whole})
    return {name: _best(score, int(choice.options[name].name)) for name, score in scores.items()}


def _options(name: str, score: Float[Tensor, "units"], cost: Amount, floor: Amount, step: int) -> list[Option]:
    """One option per count of units that may be kept, named by the count; its loss is the share of importance lost."""
    if step < 1:
        raise InputError(f"Width {name!r} cannot keep multiples of {step} units.", "Give a multiple of at least 1.")
    if len(score) == 0 or not bool((torch.isfinite(score) & (score >= 0)).all()):
        raise NumericsError(f"The scores of width {name!r} are not finite numbers from 0.", "Check its calibration.")
    units = len(score)
    least = max(1, math.ceil(floor * units - 1e-9))  # 0.1 * 30 is a little above 3
    counts = [*range(math.ceil(least / step) * step, units, step), units]
    rising = score.double().cpu().sort().values
    if rising[-1] == 0:
        rising = torch.ones_like(rising)  # nothing is known, so all count alike
    lost = (torch.cat([rising.new_zeros(1), rising.cumsum(0)]) / rising.sum()).tolist()
    return [Option(str(count), {COST: count * cost}, lost[units - count]) for count in counts]


def _best(score: Float[Tensor, "units"], count: int) -> Int64[Tensor, "count"]:
    """The most important units, ascending; of equals the first, so that the choice can be repeated."""
    return score.double().cpu().argsort(descending=True, stable=True)[:count].sort().values
