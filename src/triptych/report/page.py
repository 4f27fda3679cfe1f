"""The report as one page: report.html beside report.json, with everything it shows inside it.

The page has no script and names no address to load from, and its content security policy forbids both, so that whatever
text a data set brings is only ever text.
"""

from functools import cache
from math import isclose
from pathlib import Path
from re import sub

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from triptych.artifact import write_file
from triptych.console import human_bytes, human_seconds, percent
from triptych.report import charts, shares, words
from triptych.report.schema import CurvePoint, LayerPlan, Report, Side

TEXT_SHOWN = 600  # characters of a sample's text
OPEN_PLAN = 12  # layers; a longer plan starts folded


def render(report: Report) -> str:
    """The page's HTML. The same report gives the same bytes."""
    return (
        environment()
        .get_template("template.html.j2")
        .render(
            r=report,
            modalities=_modalities(report),
            plan=_by_component(report),
            drawings=_drawings(report),
            histories=_histories(report),
            bar=lambda item: charts.kept_bar(item, report.contract),
            q=lambda value: words.quality(value, report.before.quality.metric),
            change=lambda value: words.difference(value, report.before.quality.metric),
        )
    )


def write_report(report: Report, folder: Path) -> None:
    """Writes report.json and report.html into a folder."""
    for name, content in (("report.json", report.to_json()), ("report.html", render(report))):
        write_file(folder / name, content)


@cache
def environment() -> Environment:
    """What all pages share: their templates, drawings, words and filters."""
    loader = FileSystemLoader(Path(__file__).parent)
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.globals.update(w=words, charts=charts, shares=shares, open_plan=OPEN_PLAN, text_shown=TEXT_SHOWN)
    found.filters.update(bytes=human_bytes, seconds=human_seconds, percent=percent, ms=milliseconds, times=words.times)
    return found


def milliseconds(value: float | None) -> str:
    """A latency: "24.1 ms"."""
    return words.NONE if value is None else f"{words.figures(value)} ms"


def _modalities(report: Report) -> list[str]:
    """Every modality the report speaks of, in the order of the data."""
    quality = report.before.quality
    return list(dict.fromkeys([*quality.without, *quality.shuffled, *report.contract.per_modality]))


def _by_component(report: Report) -> dict[str, list[LayerPlan]]:
    """The plan's layers under their components, both in the order of the model."""
    groups: dict[str, list[LayerPlan]] = {}
    for layer in report.plan:
        groups.setdefault(layer.component, []).append(layer)
    return groups


def _drawings(report: Report) -> list[Markup]:
    """The size and the speed half of the size-speed-quality picture."""
    metric = report.before.quality.metric

    def say_quality(value: float) -> str:
        return f"{100 * value:.4g}%" if words.is_share(metric) else f"{value:.4g}"

    points = _points(report)
    timed = [point for point in points if point.latency_ms]
    drawn = [charts.tradeoff(points, lambda p: float(p.bytes), _round_bytes, say_quality, "size on disk")]
    if [p.kind for p in timed if p.kind != "attempt"] == ["before", "after"]:
        say_ms = "{:.4g} ms".format
        drawn.append(charts.tradeoff(timed, lambda p: p.latency_ms or 0.0, say_ms, say_quality, "latency, median"))
    return drawn


def _points(report: Report) -> list[CurvePoint]:
    """Before, attempts, after; the ends come from the two sides where the curve lacks them."""
    ends = {point.kind: point for point in report.curve if point.kind != "attempt"}
    before = ends.get("before") or _end(report.before, "before")
    after = ends.get("after") or _end(report.after, "after")
    same = [p for p in report.curve if p.kind == "attempt" and not _coincide(p, after)]
    return [before, *same, after]


def _coincide(a: CurvePoint, b: CurvePoint) -> bool:
    """The attempt that was taken is the model after; drawn twice, its labels would collide."""
    return a.bytes == b.bytes and isclose(a.quality, b.quality) and a.latency_ms == b.latency_ms


def _end(side: Side, label: str) -> CurvePoint:
    return CurvePoint(label=label, bytes=side.bytes, latency_ms=side.latency_ms.p50, quality=side.quality.all)


def _histories(report: Report) -> list[tuple[str, Markup]]:
    """Loss and quality over steps, where the log has two points of them at least."""
    metric = report.before.quality.metric
    drawn = []
    series = (
        ("loss", [(p.step, p.loss) for p in report.training if p.loss is not None]),
        (metric, [(p.step, p.quality) for p in report.training if p.quality is not None]),
    )
    for name, points in series:
        if len(points) >= 2:
            share = name == metric and words.is_share(metric)
            say = "{:.3g}".format if not share else lambda value: f"{100 * value:.3g}%"
            drawn.append((name, charts.history(points, say, name)))
    return drawn


def _round_bytes(value: float) -> str:
    """A size without the noughts behind the point."""
    return sub(r"\.?0+ ", " ", human_bytes(value)) if "." in human_bytes(value) else human_bytes(value)
