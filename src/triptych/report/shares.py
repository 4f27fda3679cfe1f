"""Drawings of what each field gave to an answer. Colours come from the style sheet: field i has class `m{i}`, six in turn."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from triptych.report import svg
from triptych.report.svg import Real, Scale

STEP_WIDTH, STEP_HEIGHT = 100, 96
SPREAD_WIDTH, SPREAD_HEIGHT = 300, 44
BINS = 60
COLOURS = 6
FRAME_WIDTH, FRAME_HEIGHT = 320, 216
PLOT = (34, 6, 278, 174)  # left, top, width and height of the picture inside its axes


def colour(place: int) -> str:
    """The class that colours a field."""
    return f"m{place % COLOURS}"


def levels(none: Real, shares: Sequence[Real]) -> list[float]:
    """The amounts from nothing to everything as the fields arrive one after another."""
    return [float(level) for level in none + np.cumsum([0.0, *shares])]


def step(level: Sequence[Real], place: int, top: Real = 0.0) -> Markup:
    """Field `place` lifts (or lowers) the amount from one level to the next; steps side by side make a staircase.

    Args:
        level: all levels of the row.
        place: the field.
        top: what the axis reaches to at least.
    """
    low, high = min(0.0, *level), max(*level, top, 1e-9)
    y = Scale(low, high, STEP_HEIGHT - 3, 3)
    before, after = y.at(level[place]), y.at(level[place + 1])
    bar = svg.tag(
        "rect",
        x=24,
        y=min(before, after),
        width=52,
        height=max(abs(before - after), 1.5),
        class_=f"{colour(place)}{' less' * (after > before)}",
    )
    zero = svg.line(0, y.at(0), STEP_WIDTH, y.at(0), "grid")
    lines = [svg.line(0, before, 24, before, "tread"), svg.line(76, after, STEP_WIDTH, after, "tread")]
    box = f"0 0 {STEP_WIDTH} {STEP_HEIGHT}"
    return svg.tag("svg", zero, *lines, bar, class_="step", viewBox=box, preserveAspectRatio="none", aria_hidden="true")


def stack(none: Real, shares: Sequence[Real], whole: Real) -> Markup:
    """What fields give on average, as one bar from nothing to `whole`; a field that takes away is left out."""
    x, drawn = Scale(0, whole, 0, 1000), []
    at = float(none)
    drawn.append(svg.tag("rect", x=0, y=0, width=x.at(at), height=28, class_="none"))
    for place, share in enumerate(shares):
        if share > 0:
            drawn.append(
                svg.tag("rect", x=x.at(at), y=0, width=x.at(at + share) - x.at(at), height=28, class_=colour(place))
            )
            at += share
    return svg.tag("svg", *drawn, class_="stack", viewBox="0 0 1000 28", preserveAspectRatio="none", aria_hidden="true")


def spread(shares: Sequence[Real], low: Real, high: Real, place: int) -> Markup:
    """How a field's shares spread over the rows: a histogram on an axis that all fields have in common, with a line at 0."""
    counts, edges = np.histogram(shares, bins=BINS, range=(low, high))
    x = Scale(low, high, 2, SPREAD_WIDTH - 2)
    tall = np.sqrt(counts / max(counts.max(), 1)) * (SPREAD_HEIGHT - 4)  # roots, so that a few rows can still be seen
    bars = [
        svg.tag(
            "rect",
            x=x.at(left),
            y=SPREAD_HEIGHT - t,
            width=(SPREAD_WIDTH - 4) / BINS + 0.3,
            height=t,
            class_=colour(place),
        )
        for left, t in zip(edges[:-1].tolist(), tall.tolist(), strict=True)
        if t
    ]
    zero = svg.line(x.at(0), 0, x.at(0), SPREAD_HEIGHT, "goal")
    return svg.picture(SPREAD_WIDTH, SPREAD_HEIGHT, "", zero, *bars, class_="spread")


def framed(picture: str, seconds: Real, marks: Sequence[tuple[str, Real]], label: str) -> Markup:
    """A spectrogram with time below it and frequencies beside it."""
    left, top, width, height = PLOT
    drawn = [svg.tag("image", href=picture, x=left, y=top, width=width, height=height, preserveAspectRatio="none")]
    for name, place in marks:
        drawn.append(svg.text(left - 6, top + (1 - place) * height + 4, name, "tick", "end"))
    x = Scale(0, seconds, left, left + width)
    for second in x.ticks(6):
        drawn.append(svg.line(x.at(second), top + height, x.at(second), top + height + 4, "axis"))
        drawn.append(svg.text(x.at(second), top + height + 17, f"{second:g}", "tick", "middle"))
    drawn.append(svg.text(left + width, top + height + 30, "seconds", "name", "end"))
    if marks:
        drawn.append(svg.text(2, top + height + 30, "Hz", "name"))
    return svg.picture(FRAME_WIDTH, FRAME_HEIGHT, label, *drawn)


def table(attention: Sequence[Sequence[Real]], names: Sequence[str]) -> Markup:
    """Which field took how much from which in the fusion: a square a pair, the darker the more."""
    side, left = 34, 8 + 7 * max(map(len, names))
    drawn = []
    for i, row in enumerate(attention):
        drawn.append(svg.text(left - 8, 22 + side * i + side / 2 + 4, names[i], "tick", "end"))
        drawn.append(svg.text(left + side * i + side / 2, 14, names[i][:5], "tick", "middle"))
        for j, share in enumerate(row):
            at = {"x": left + side * j + 1, "y": 22 + side * i + 1}
            drawn.append(
                svg.tag("rect", width=side - 2, height=side - 2, rx=3, fill_opacity=share, class_="asked", **at)
            )
            centre = (at["x"] + side / 2 - 1, at["y"] + side / 2 + 3)
            drawn.append(svg.text(*centre, f"{100 * share:.0f}", "share", "middle"))
    told = "; ".join(
        f"{a} from {b} {s:.0%}"
        for a, row in zip(names, attention, strict=True)
        for b, s in zip(names, row, strict=True)
    )
    return svg.picture(
        left + side * len(names) + 4, 26 + side * len(names), f"Attention: {told}.", *drawn, class_="table"
    )
