"""Paired bootstrap intervals: how sure is "the compressed model keeps 99 % of the quality", on these rows?

Both models are scored on the same rows and the rows are resampled, so what makes a row hard for both cancels out.
Rows that share a photo, a clip or a speaker are not independent: their whole group is resampled. Where several such
columns cross, each column's groups are resampled by themselves and a row counts as often as the product of its groups'
counts: the pigeonhole bootstrap (A. B. Owen, Annals of Applied Statistics 1(2), 2007). It errs on the wide side: what
varies from group to group is counted once, what varies from row to row up to 2^k - 1 times where k columns cross.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int64, Real, Shaped

from triptych.errors import InputError, NumericsError

Scores: TypeAlias = Real[np.ndarray, "rows"] | Bool[np.ndarray, "rows"]
Statistic: TypeAlias = Callable[
    [Float64[np.ndarray, "rows"], Float64[np.ndarray, "rows"], Float64[np.ndarray, "repeats rows"]],
    Float64[np.ndarray, "repeats"],
]

_CHUNK = 2**20  # weights at a time (8 MB), however many rows and repeats there are


class Interval(NamedTuple):
    """A figure and the bounds of its confidence interval."""

    point: float
    low: float
    high: float


def paired_bootstrap(
    before: Scores,
    after: Scores,
    groups: Sequence[Shaped[np.ndarray, "rows"]] | None = None,
    statistic: Statistic | Literal["ratio"] = "ratio",
    *,
    repeats: int = 2000,
    seed: int,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic of two models scored on the same rows.

    A repeat in which the statistic is undefined (NaN; a ratio whose denominator is not positive) counts as minus
    infinity for the lower bound and as infinity for the upper: where there are many, the interval says so.

    Args:
        before: score of each row before, larger is better.
        after: score of each row after, in the same order.
        groups: columns that name what rows share; None, NaN and "" mean that a row shares nothing. A column with one
            group only is passed over (the interval then holds for that group alone), and so is one whose groups lie
            within another's.
        statistic: "ratio" (mean after / mean before), or a function of before, after and weights [repeats, rows] that
            returns one value a repeat, as `difference` does.
        repeats: resamples.
        seed: of the resampling alone; the same seed gives the same interval.
        confidence: two-sided. The lower bound of 0.90 is the one-sided 95 % bound.

    Raises:
        InputError: fewer than two rows, or columns of different lengths.
        NumericsError: a score is NaN or infinite; names the row.
    """
    before, after = _checked(before, "before"), _checked(after, "after")
    rows = len(before)
    groups = list(groups or [])
    lengths = {rows, len(after), *(len(column) for column in groups)}
    if len(lengths) > 1:
        raise InputError(
            f"Scores and groups have different numbers of rows: {sorted(lengths)}.", "Pair them row by row."
        )
    if rows < 2:
        raise InputError(f"An interval needs at least 2 rows, not {rows}.", "Evaluate on more data.")
    if repeats < 1 or not 0 < confidence < 1:
        raise InputError(f"repeats is {repeats} and confidence {confidence}.", "Use at least 1, and between 0 and 1.")
    compute = ratio if statistic == "ratio" else statistic
    point = float(compute(before, after, np.ones((1, rows)))[0])
    codes = _crossing([_codes(column) for column in groups]) or [np.arange(rows)]
    values = np.concatenate([compute(before, after, weights) for weights in _weights(codes, repeats, seed)])
    return Interval(point, *_bounds(values, confidence))


def kept_contribution(
    all_before: Scores,
    without_before: Scores,
    all_after: Scores,
    without_after: Scores,
    groups: Sequence[Shaped[np.ndarray, "rows"]] | None = None,
    *,
    repeats: int = 2000,
    seed: int,
    confidence: float = 0.95,
) -> Interval:
    """How much of a modality's contribution is left: (all - without) after, over (all - without) before.

    The four scores are of the same rows: with all modalities, and without this one, by each model. A modality that
    contributed nothing before has nothing to keep: the point is then NaN.

    Raises:
        InputError, NumericsError: as `paired_bootstrap`.
    """
    scores = (all_before, without_before, all_after, without_after)
    names = ("with all before", "without it before", "with all after", "without it after")
    checked = [_checked(values, name) for values, name in zip(scores, names, strict=True)]
    if len({len(values) for values in checked}) > 1:
        raise InputError(f"The scores have {[len(v) for v in checked]} rows.", "Score both models on the same rows.")
    before, after = checked[0] - checked[1], checked[2] - checked[3]
    return paired_bootstrap(before, after, groups, "ratio", repeats=repeats, seed=seed, confidence=confidence)


def ratio(
    before: Float64[np.ndarray, "rows"],
    after: Float64[np.ndarray, "rows"],
    weights: Float64[np.ndarray, "repeats rows"],
) -> Float64[np.ndarray, "repeats"]:
    """Weighted mean after over weighted mean before; NaN where the latter is not positive."""
    below, above = weights @ before, weights @ after
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def difference(
    before: Float64[np.ndarray, "rows"],
    after: Float64[np.ndarray, "rows"],
    weights: Float64[np.ndarray, "repeats rows"],
) -> Float64[np.ndarray, "repeats"]:
    """Weighted mean of after - before; NaN where no row has weight."""
    total = weights.sum(1)
    return np.divide(weights @ (after - before), total, out=np.full_like(total, np.nan), where=total > 0)


def _weights(
    codes: list[Int64[np.ndarray, "rows"]], repeats: int, seed: int
) -> Iterator[Float64[np.ndarray, "some rows"]]:
    """How often each row counts in each repeat, some repeats at a time.

    Each column has a generator of its own, so that the draws do not depend on how many repeats come at a time.
    """
    rows = len(codes[0])
    generators = np.random.default_rng(seed).spawn(len(codes))
    for start in range(0, repeats, max(1, _CHUNK // rows)):
        some = min(max(1, _CHUNK // rows), repeats - start)
        weights = np.ones((some, rows))
        for code, generator in zip(codes, generators, strict=True):
            size = int(code.max()) + 1
            drawn = generator.integers(0, size, (some, size)) + np.arange(some)[:, None] * size
            counts = np.bincount(drawn.ravel(), minlength=some * size).reshape(some, size)
            weights *= counts[:, code]
        yield weights


def _codes(column: Shaped[np.ndarray, "rows"]) -> Int64[np.ndarray, "rows"]:
    """Groups numbered by first appearance; a row without a group is a group of its own."""
    numbers: dict[Any, int] = {}
    codes = []
    for row, value in enumerate(column.tolist()):
        alone = value is None or value == "" or value != value  # noqa: PLR0124 - only NaN differs from itself
        key = (row,) if alone else value
        codes.append(numbers.setdefault(key, len(numbers)))
    return np.asarray(codes, dtype=np.int64)


def _crossing(columns: list[Int64[np.ndarray, "rows"]]) -> list[Int64[np.ndarray, "rows"]]:
    """The columns whose groups cross: without those of one group, and those nested in another (clips within speakers).

    Resampling speakers resamples their clips; counting both would give the same noise twice.
    """
    kept: list[Int64[np.ndarray, "rows"]] = []
    several = [column for column in columns if column.max() > 0]
    for i, column in enumerate(several):
        others = [*kept, *several[i + 1 :]]
        if not any(_nested(column, other) for other in others):
            kept.append(column)
    return kept


def _nested(inner: Int64[np.ndarray, "rows"], outer: Int64[np.ndarray, "rows"]) -> bool:
    """Whether every group of `inner` lies within one group of `outer`."""
    pairs = np.unique(inner * (int(outer.max()) + 1) + outer)
    return len(pairs) == int(inner.max()) + 1


def _bounds(values: Float64[np.ndarray, "repeats"], confidence: float) -> tuple[float, float]:
    """The order statistics at the interval's ends; outward where they fall between two repeats."""
    cut = int((1 - confidence) / 2 * (len(values) - 1) + 1e-9)
    low = np.sort(np.where(np.isnan(values), -np.inf, values))[cut]
    high = np.sort(np.where(np.isnan(values), np.inf, values))[len(values) - 1 - cut]
    return float(low), float(high)


def _checked(scores: Scores, name: str) -> Float64[np.ndarray, "rows"]:
    values: Float64[np.ndarray, "rows"] = np.asarray(scores, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise NumericsError(
            f"The score {name} of row {broken[0]} is {values[broken[0]]}.", "Look at that row's output."
        )
    return values
