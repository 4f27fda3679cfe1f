"""Drawing primitives: elements with everything escaped, and the scales that put values on an axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup

Real = int | float


def tag(name: str, *children: str, **attributes: str | Real) -> Markup:
    """One element. Text children and attribute values are escaped unless they are Markup already.

    An underscore at the end of an attribute's name lets it be a Python keyword (`class_`); others stand for hyphens.
    """
    pairs = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value)) for key, value in attributes.items()
    ]
    return Markup("<{}{}>{}</{}>").format(name, Markup().join(pairs), Markup().join(children), name)


def picture(width: int, height: int, label: str, *children: str, class_: str = "chart") -> Markup:
    """A drawing that scales with its column. Without a label it is hidden from screen readers: numbers stand beside."""
    box = f"0 0 {width} {height}"
    if label:
        return tag("svg", *children, class_=class_, viewBox=box, role="img", aria_label=label)
    left = "xMinYMid"  # a drawing in a wider column starts where the words above it start
    size = {"width": width, "height": height}
    return tag("svg", *children, class_=class_, viewBox=box, preserveAspectRatio=left, aria_hidden="true", **size)


def line(x1: Real, y1: Real, x2: Real, y2: Real, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(x: Real, y: Real, words: str, class_: str = "", anchor: str = "start") -> Markup:
    """Words whose baseline starts, is centred or ends at (x, y)."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, class_=class_)


def path(points: Sequence[tuple[Real, Real]], class_: str) -> Markup:
    """A line through points."""
    return tag("path", d="M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points), class_=class_)


@dataclass(frozen=True)
class Scale:
    """Maps values in [low, high] to positions from `start` to `end`, evenly or by logarithm."""

    low: Real
    high: Real
    start: Real
    end: Real
    log: bool = False

    def at(self, value: Real) -> float:
        """The position of a value, held within the axis."""
        low, high, v = (
            log10(x) if self.log else x for x in (self.low, self.high, min(max(value, self.low), self.high))
        )
        return self.start + (self.end - self.start) * ((v - low) / (high - low) if high > low else 0.5)

    def ticks(self, most: int = 5) -> list[float]:
        """At most `most` round values on the axis: 1, 2 and 5 times powers of ten where they fit."""
        return _log_ticks(self.low, self.high, most) if self.log else _even_ticks(self.low, self.high, most)


def _log_ticks(low: Real, high: Real, most: int) -> list[float]:
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [d * 10.0**decade for decade in decades for d in digits if low <= d * 10.0**decade <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: ceil(len(ticks) / most)]


def _even_ticks(low: Real, high: Real, most: int) -> list[float]:
    if high <= low:
        return [float(low)]
    rough = (high - low) / most
    power = 10.0 ** floor(log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10, 20) if (high - low) / (power * m) <= most - 1 + 1e-9 or m == 20)
    first = ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, floor(high / step + 1e-9) + 1)]


def _short(value: str | Real) -> str:
    """Numbers to a hundredth of a pixel."""
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
