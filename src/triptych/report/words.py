"""Numbers as the page says them, and its sentences. Rounding never hides a broken promise."""

import math

from triptych.console import human_bytes, percent
from triptych.report.schema import Contract, Interval, Kept, Report

Real = int | float

# Metrics in [0, 1] that people read as a percentage.
SHARES = ("accuracy", "f1", "recall", "precision", "auc", "auroc", "average precision", "map", "exact match", "iou")
NONE = "\N{EN DASH}"


def figures(value: Real) -> str:
    """A number to three figures, as many decimals as that takes: 10.2, 4.13, 0.997, 152."""
    size = abs(value)
    return f"{value:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"


def times(ratio: Real | None) -> str:
    """A ratio with its sign, 4.1 times as "4.1" and a cross."""
    return NONE if ratio is None else f"{_ratio(ratio)}\N{MULTIPLICATION SIGN}"


def factor(ratio: Real) -> str:
    """A ratio with its sign, to three figures, for tables."""
    return f"{figures(ratio)}\N{MULTIPLICATION SIGN}"


def compared(ratio: Real, better: str, worse: str, same: str) -> str:
    """A ratio in words: "4.1 times smaller", "1.20 times larger" or "the same size"."""
    if 0.995 < ratio < 1.005:
        return same
    return f"{_ratio(ratio)} times {better}" if ratio > 1 else f"{_ratio(1 / ratio)} times {worse}"


def count(number: int) -> str:
    """A count to three figures: "965", "641 k", "6.12 M"."""
    value = float(number)
    for unit in ("", " k", " M"):
        if value < 999.5:
            return f"{figures(value)}{unit}" if unit else str(number)
        value /= 1000
    return f"{figures(value)} G"


def is_share(metric: str) -> bool:
    """Whether a metric is read as a percentage."""
    words = metric.lower().replace("_", " ").replace("@", " ").replace("-", " ").split()
    return any(share in " ".join(words) if " " in share else share in words for share in SHARES)


def quality(value: Real, metric: str) -> str:
    """A metric's value: "91.8%" for a share, otherwise three figures."""
    return percent(value) if is_share(metric) else figures(value)


def difference(value: Real, metric: str) -> str:
    """A signed change of a metric; of a share in percentage points."""
    shown = f"{100 * value:+.1f}" if is_share(metric) else f"{value:+.3g}"
    return shown.replace("-", "\N{MINUS SIGN}") if shown.strip("+-0.") else shown.strip("+-")


def goal(keep: Real) -> str:
    """The promised share, as short as it is exact: "99%"."""
    return f"{round(100 * keep, 4):g}%"


def kept_share(value: Real, keep: Real) -> str:
    """A kept share as a percentage, with as many digits as it takes to be seen on its own side of the promise."""
    return percent(value, _digits(value, keep))


def interval(bounds: Interval | None, keep: Real) -> str:
    """An interval of a kept share: "98.6 to 100.1%"."""
    if bounds is None:
        return ""
    low, high = bounds
    return f"{kept_share(low, keep).removesuffix('%')} to {kept_share(high, keep)}"


def standing(kept: Real | None, bounds: Interval | None, keep: Real) -> str:
    """How a kept share stands to the promise: "kept" beyond doubt, "not certain", "broken", or "" if unknown."""
    if kept is None:
        return ""
    if kept < keep:
        return "broken"
    return "kept" if bounds is not None and bounds[0] >= keep else "not certain"


def weakest(contract: Contract) -> tuple[str, Kept] | None:
    """The modality that came closest to breaking the promise, or broke it worst."""
    known = {name: item for name, item in contract.per_modality.items() if item.kept is not None}
    if not known:
        return None
    return min(known.items(), key=lambda pair: _margin(pair[1]))


def headline(report: Report) -> str:
    """The verdict in one sentence: how much smaller, how much faster, and what was kept or lost."""
    gains = compared(report.ratio.bytes, "smaller", "larger", "the same size")
    if report.ratio.latency is not None:
        gains += f" and {compared(report.ratio.latency, 'faster', 'slower', 'equally fast')}"
    contract = report.contract
    if contract.verdict == "kept":
        kept = _with_interval(_whole(contract))
        return _sentence(f"{gains}, with its {report.before.quality.metric} kept at {kept}")
    return _sentence(f"{gains}, but the promise is broken: {_breach(contract)}")


def promise(report: Report) -> str:
    """What was promised, and which modality came closest to breaking it."""
    contract = report.contract
    modality = next(iter(contract.per_modality.values()), contract).keep
    also = "" if modality == contract.keep else f"{goal(modality)} "
    sentence = (
        f"Promised: at least {goal(contract.keep)} of the quality, and {also}of what each modality contributes to it."
    )
    worst = weakest(contract)
    if worst is None or contract.verdict == "broken":
        return sentence
    name, item = worst
    return f"{sentence} The weakest is {name}, with {_with_interval(item)} kept."


def same_engine(report: Report) -> float | None:
    """How much faster the compressed model is than the original in one engine, if one engine ran both.

    The change of engine is then out of the comparison, and what is left is due to the compression.
    """
    originals = {row.engine: row.latency_ms.p50 for row in report.engines if row.model == "original"}
    for row in report.engines:
        if row.model == "compressed" and row.engine in originals:
            return originals[row.engine] / row.latency_ms.p50
    return None


def change(before: int, after: int) -> str:
    """Two sizes: "45.1 MB to 4.42 MB"."""
    return f"{human_bytes(before)} to {human_bytes(after)}"


def shape(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    """A tensor's shape, and the one it was pruned to if that differs."""
    cross = " \N{MULTIPLICATION SIGN} "
    first, last = (cross.join(map(str, sizes)) for sizes in (before, after))
    return first if before == after else f"{first} \N{RIGHTWARDS ARROW} {last}"


def _breach(contract: Contract) -> str:
    """The worst of the whole and its modalities."""
    whole = _whole(contract)
    worst = weakest(contract)
    name, item = worst if worst and _margin(worst[1]) < _margin(whole) else ("the whole model", whole)
    by_answers = _by_answers(item) < _low(item)
    kept = f"{kept_share(item.kept_answers or 0.0, item.keep)} by its answers" if by_answers else _with_interval(item)
    return f"{name} keeps {kept} where {goal(item.keep)} was promised"


def _whole(contract: Contract) -> Kept:
    return Kept(keep=contract.keep, kept=contract.kept, interval=contract.interval)


def _low(item: Kept) -> float:
    return item.interval[0] if item.interval else item.kept or 0.0


def _margin(item: Kept) -> float:
    """How far the least that may have been kept is above the promise."""
    return min(_low(item), _by_answers(item)) - item.keep


def _by_answers(item: Kept) -> float:
    """The most that chance lets the answers have kept; reports of before there was an interval have the point alone."""
    if item.answers_interval:
        return item.answers_interval[1]
    return math.inf if item.kept_answers is None else item.kept_answers


def _with_interval(item: Kept) -> str:
    kept = kept_share(item.kept or 0.0, item.keep)
    return f"{kept} ({interval(item.interval, item.keep)})" if item.interval else kept


def _ratio(value: Real) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 1.95 else 2}f}"


def _digits(value: Real, keep: Real) -> int:
    for digits in (1, 2, 3):
        if (round(100 * value, digits) >= 100 * keep) == (value >= keep):
            return digits
    return 4


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."
