"""Drawings: scales against their formulas, everything escaped, every mark where its value belongs."""

import re
from math import log10
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from triptych.report import charts, svg
from triptych.report.schema import CurvePoint, Kept, Latency, Report
from triptych.report.svg import Scale


def test_scales_map_their_ends_and_middles() -> None:
    even = Scale(0, 10, 100, 200)
    assert [even.at(v) for v in (0, 5, 10, 20, -5)] == [100, 150, 200, 200, 100]
    log = Scale(1, 100, 0, 50, log=True)
    assert [log.at(v) for v in (1, 10, 100)] == pytest.approx([0, 25, 50])
    assert Scale(3, 3, 0, 10).at(3) == 5


def test_even_ticks_are_round_numbers() -> None:
    assert Scale(0.83, 0.95, 0, 1).ticks() == pytest.approx([0.85, 0.9, 0.95])
    assert Scale(0, 30, 0, 1).ticks() == [0, 10, 20, 30]


def test_log_ticks_are_round_numbers() -> None:
    assert Scale(3.8e6, 67e6, 0, 1, log=True).ticks() == pytest.approx([5e6, 10e6, 20e6, 50e6])
    assert Scale(1, 1e9, 0, 1, log=True).ticks() == pytest.approx([1e0, 1e2, 1e4, 1e6, 1e8])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_even_ticks_stay_on_the_axis_and_are_few(low: float, span: float) -> None:
    scale = Scale(low, low + span, 0, 1)
    assert len(scale.ticks()) <= 6
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in scale.ticks() if span > 1e-4 * abs(low))


@given(st.floats(1e-3, 1e9), st.floats(1.2, 1e6))
def test_log_ticks_stay_on_the_axis_and_are_few(low: float, times: float) -> None:
    ticks = Scale(low, low * times, 0, 1, log=True).ticks()
    assert len(ticks) <= 5
    assert all(low <= t <= low * times for t in ticks)


def test_elements_escape_text_and_attributes() -> None:
    made = svg.tag("text", '<script>"&', aria_label='" onload="x', class_="a", text_anchor="end", x=1.0 / 3)
    assert made == (
        '<text aria-label="&#34; onload=&#34;x" class="a" text-anchor="end" x="0.33">&lt;script&gt;&#34;&amp;</text>'
    )
    assert svg.tag("g", Markup("<b></b>")) == "<g><b></b></g>"


def _point(label: str, size: int, quality: float, interval: tuple[float, float] | None = None) -> CurvePoint:
    return CurvePoint(label=label, bytes=size, quality=quality, interval=interval)


def _tradeoff(points: list[CurvePoint]) -> ET.Element:
    drawn = charts.tradeoff(points, lambda p: float(p.bytes), "{:.0f}".format, "{:.2f}".format, "size")
    return ET.fromstring(drawn)  # noqa: S314 - our own drawing


def test_tradeoff_places_points_by_logarithm_of_size_and_by_quality() -> None:
    points = [_point("before", 1000, 0.9, (0.88, 0.92)), _point("try", 100, 0.7), _point("after", 10, 0.8)]
    drawing = _tradeoff(points)
    dots = {dot.get("class"): (float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in drawing.iter("circle")}
    left, right = charts.LEFT + 6, charts.RIGHT
    low, high = log10(10 / 1.5), log10(1000 * 1.5)
    for kind, size in (("before", 1000), ("attempt", 100), ("after", 10)):
        assert dots[kind][0] == pytest.approx(left + (right - left) * (log10(size) - low) / (high - low), abs=0.01)
    assert dots["before"][1] < dots["after"][1] < dots["attempt"][1]
    assert "before: 1000, 0.90; try: 100, 0.70; after: 10, 0.80" in drawing.get("aria-label", "")


def test_tradeoff_labels_do_not_cover_each_other() -> None:
    crowd = [_point(f"plan {i}", 100 + i, 0.8 + 1e-4 * i) for i in range(30)]
    drawing = _tradeoff([_point("before", 1000, 0.9), *crowd, _point("after", 101, 0.8)])
    labels = [text for text in drawing.iter("text") if "label" in (text.get("class") or "")]
    assert {"before", "after"} <= {text.text for text in labels}
    boxes = []
    for text in labels:
        wide = charts.LETTER * len(text.text or "")
        left = float(text.get("x", 0)) - (wide if text.get("text-anchor") == "end" else 0)
        boxes.append((left, float(text.get("y", 0)) - 10, left + wide, float(text.get("y", 0)) + 3))
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(charts._overlap(a, b) for a, b in pairs)


def test_tradeoff_of_equal_points_is_drawn() -> None:
    _tradeoff([_point("before", 1000, 0.9), _point("after", 1000, 0.9)])


def test_kept_bar_is_red_only_below_the_promise(report: Report) -> None:
    assert 'class="lost"' in charts.kept_bar(Kept(keep=0.99, kept=0.98, interval=(0.97, 0.985)), report.contract)
    assert 'class="lost"' not in charts.kept_bar(Kept(keep=0.99, kept=0.995, interval=(0.98, 1.0)), report.contract)
    assert charts.kept_bar(Kept(keep=0.99), report.contract) == ""


def test_bars_are_as_long_as_their_values() -> None:
    before, after = re.findall(r'width="([\d.]+)" height="5"', charts.pair_bar(100, 25, 200))
    assert (float(before), float(after)) == (charts.GLYPH_WIDTH / 2, charts.GLYPH_WIDTH / 8)
    drawn = ET.fromstring(charts.latency_bar(Latency(p50=5, p95=10), 10, "original"))  # noqa: S314 - our own
    whisker, bar = drawn.find("line"), drawn.find("rect")
    assert whisker is not None
    assert bar is not None
    assert float(bar.get("width", 0)) == (charts.GLYPH_WIDTH - 2) / 2
    assert float(whisker.get("x2", 0)) == charts.GLYPH_WIDTH - 2


def test_a_long_history_is_thinned_and_keeps_its_end() -> None:
    drawn = charts.history([(float(i), 1.0 / (1 + i)) for i in range(10_000)], "{:.2f}".format, "loss")
    curve = re.search(r'<path d="M([^"]+)" class="curve"', drawn)
    assert curve is not None
    assert len(curve[1].split("L")) <= charts.MOST_VERTICES + 1
    assert float(curve[1].split("L")[-1].split()[0]) == charts.RIGHT
