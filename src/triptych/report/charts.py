"""The page's drawings. Colours and type come from the page's style sheet, so that they follow light, dark and print."""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from triptych.report import svg, words
from triptych.report.schema import Contract, CurvePoint, Kept, Latency
from triptych.report.svg import Real, Scale

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 48, 450, 16, 268
GLYPH_WIDTH, GLYPH_HEIGHT = 168, 16
LETTER = 6.4  # mean width of a letter at the charts' 12 px, for keeping labels apart
MOST_VERTICES = 400
LEAST_REACH = 0.02  # of the quality, up and down: a change of a twentieth of a point must not look like a fall

Say = Callable[[float], str]
Box = tuple[float, float, float, float]


def tradeoff(
    points: Sequence[CurvePoint], where: Callable[[CurvePoint], float], say_x: Say, say_y: Say, title: str
) -> Markup:
    """Quality over size or latency (by logarithm), with error bars: the first point is before, the last after.

    Args:
        points: before, attempts, after.
        where: the horizontal value of a point.
        say_x: words for a horizontal value.
        say_y: words for a quality.
        title: what the horizontal axis shows.
    """
    xs = [where(point) for point in points]
    x = Scale(min(xs) / 1.5, max(xs) * 1.5, LEFT + 6, RIGHT, log=True)
    ends = [bound for p in points for bound in (p.interval or (p.quality, p.quality))]
    middle = (max(ends) + min(ends)) / 2
    reach = max(0.62 * (max(ends) - min(ends)), LEAST_REACH * abs(middle)) or 0.01
    y = Scale(middle - reach, middle + reach, BOTTOM, TOP)
    at = [(x.at(value), y.at(point.quality)) for value, point in zip(xs, points, strict=True)]
    marks = [_mark(point, position, y) for point, position in zip(points, at, strict=True)]
    told = "; ".join(f"{p.label}: {say_x(v)}, {say_y(p.quality)}" for p, v in zip(points, xs, strict=True))
    frame = _frame(x, y, say_x, say_y, title)
    way = svg.path([at[0], at[-1]], "way")
    return svg.picture(WIDTH, HEIGHT, f"Quality over {title}. {told}.", *frame, way, *marks, *_labels(points, at))


def history(points: Sequence[tuple[float, float]], say_y: Say, title: str) -> Markup:
    """A training curve: a value over steps."""
    x = Scale(points[0][0], points[-1][0], LEFT + 6, RIGHT)
    values = [value for _, value in points]
    pad = 0.06 * (max(values) - min(values)) or 0.01
    y = Scale(min(values) - pad, max(values) + pad, BOTTOM, TOP)
    step = -(-len(points) // MOST_VERTICES)
    drawn = [(x.at(epoch), y.at(value)) for epoch, value in [*points[:-1:step], points[-1]]]
    end = svg.tag("circle", cx=drawn[-1][0], cy=drawn[-1][1], r=4, class_="after")
    label = f"{title} from {say_y(values[0])} to {say_y(values[-1])} over {points[-1][0]:g} steps."
    frame = _frame(x, y, "{:g}".format, say_y, "step")
    return svg.picture(WIDTH, HEIGHT, label, *frame, svg.path(drawn, "curve"), end)


def kept_bar(item: Kept | Contract, contract: Contract) -> Markup:
    """A kept share with its interval on an axis that all bars of a report share; the tick is the promise."""
    kept, interval, keep = item.kept, item.interval, item.keep
    if kept is None:
        return Markup()
    x = Scale(*_kept_range(contract), 5, GLYPH_WIDTH - 5)
    middle = GLYPH_HEIGHT / 2
    colour = "lost" if words.standing(kept, interval, keep) == "broken" else "after"
    low, high = interval or (kept, kept)
    return svg.picture(
        GLYPH_WIDTH,
        GLYPH_HEIGHT,
        "",
        svg.line(0, middle, GLYPH_WIDTH, middle, "grid"),
        svg.line(x.at(keep), 0, x.at(keep), GLYPH_HEIGHT, "goal"),
        svg.line(x.at(low), middle, x.at(high), middle, f"whisker {colour}"),
        svg.tag("circle", cx=x.at(kept), cy=middle, r=4, class_=colour),
        class_="glyph",
    )


def pair_bar(before: Real, after: Real, largest: Real) -> Markup:
    """Two bars, before above after, on an axis from nothing to `largest`."""
    bars = [_bar(before, largest, 2, "before"), _bar(after, largest, 9, "after")]
    return svg.picture(GLYPH_WIDTH, GLYPH_HEIGHT, "", *bars, class_="glyph")


def latency_bar(latency: Latency, largest: Real, kind: str) -> Markup:
    """The median as a bar, with a line on to the 95th percentile."""
    x = Scale(0, largest, 0, GLYPH_WIDTH - 2)
    middle = GLYPH_HEIGHT / 2
    reach = svg.line(x.at(latency.p50), middle, x.at(latency.p95), middle, f"whisker {kind}")
    bar = svg.tag("rect", x=0, y=4, width=max(x.at(latency.p50), 1), height=8, rx=1, class_=kind)
    return svg.picture(GLYPH_WIDTH, GLYPH_HEIGHT, "", reach, bar, class_="glyph")


def _bar(value: Real, largest: Real, top: int, kind: str) -> Markup:
    width = max(Scale(0, largest, 0, GLYPH_WIDTH).at(value), 1)
    return svg.tag("rect", x=0, y=top, width=width, height=5, rx=1, class_=kind)


def _kept_range(contract: Contract) -> tuple[float, float]:
    items: list[Contract | Kept] = [contract, *contract.per_modality.values()]
    values = [value for item in items for value in (item.keep, item.kept, *(item.interval or ())) if value is not None]
    low, high = min(values), max(*values, 1.0)
    pad = 0.05 * (high - low) or 0.01
    return low - pad, high + pad


def _frame(x: Scale, y: Scale, say_x: Say, say_y: Say, title: str) -> list[Markup]:
    """Horizontal grid lines with their values, the values below, and the name of the horizontal axis."""
    drawn = []
    for value in y.ticks():
        drawn += [
            svg.line(LEFT, y.at(value), RIGHT, y.at(value), "grid"),
            svg.text(LEFT - 8, y.at(value) + 4, say_y(value), "tick", "end"),
        ]
    for value in x.ticks():
        drawn += [
            svg.line(x.at(value), BOTTOM, x.at(value), BOTTOM + 4, "axis"),
            svg.text(x.at(value), BOTTOM + 18, say_x(value), "tick", "middle"),
        ]
    drawn.append(svg.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"))
    drawn.append(svg.text(RIGHT, BOTTOM + 42, title, "name", "end"))
    return drawn


def _mark(point: CurvePoint, at: tuple[float, float], y: Scale) -> Markup:
    across, down = at
    dot = svg.tag("circle", cx=across, cy=down, r=4 if point.kind == "attempt" else 6, class_=point.kind)
    if point.interval is None:
        return dot
    low, high = (y.at(bound) for bound in point.interval)
    return svg.tag("g", svg.line(across, low, across, high, f"whisker {point.kind}"), dot)


def _labels(points: Sequence[CurvePoint], at: Sequence[tuple[float, float]]) -> list[Markup]:
    """A label beside each point, on the first side where it covers neither a point nor another label.

    Before and after are placed first and always; an attempt in a crowd goes without, for the table below names it.
    """
    taken: list[Box] = [(across - 7, down - 7, across + 7, down + 7) for across, down in at]
    drawn = []
    for i in sorted(range(len(points)), key=lambda i: points[i].kind == "attempt"):
        name = points[i].label if len(points[i].label) <= 24 else points[i].label[:23] + "\N{HORIZONTAL ELLIPSIS}"
        across, down = at[i]
        wide = LETTER * len(name)
        sides = {"start": (across + 11, down + 4), "end": (across - 11, down + 4)}
        tries = [*sides.items(), ("start", (across + 9, down - 10)), ("end", (across - 9, down - 10))]
        tries += [("start", (across + 9, down + 18)), ("end", (across - 9, down + 18))]
        for anchor, (x, y) in tries:
            left = x if anchor == "start" else x - wide
            box = (left, y - 10, left + wide, y + 3)
            free = left >= LEFT and box[2] <= WIDTH and not any(_overlap(box, other) for other in taken)
            if free or (points[i].kind != "attempt" and (anchor, (x, y)) == tries[-1]):
                taken.append(box)
                drawn.append(svg.text(x, y, name, f"label {points[i].kind}", anchor))
                break
    return drawn


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
