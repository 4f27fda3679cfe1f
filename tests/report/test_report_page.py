"""The page: whole, accessible, closed to the network, deaf to hostile text, and true to report.json."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from report.parsed import Page
from triptych.console import human_bytes, percent
from triptych.report import page, words
from triptych.report.page import render, write_report
from triptych.report.schema import Report, read_report

HOSTILE = "</style></title><script>alert('x')</script><img src=x onerror=alert(1)>\"'>{{ 7*7 }}&amp;"


def _minimal(data: dict[str, Any]) -> dict[str, Any]:
    optional = "title command plan curve attempts engines worst training checks measured notes components"
    return {key: value for key, value in data.items() if key not in optional.split()}


def test_structure(report: Report) -> None:
    parsed = Page(render(report))
    assert parsed.all("html") == [{"lang": "en"}]
    assert len(parsed.all("h1")) == len(parsed.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a["href"] or "").removeprefix("#") for a in parsed.all("a") if (a["href"] or "").startswith("#")}
    assert targets == set(ids)
    assert len(parsed.all("section")) == 9


def test_accessible(report: Report) -> None:
    parsed = Page(render(report))
    assert all(th.get("scope") in {"col", "row", "rowgroup"} for th in parsed.all("th"))
    assert len(parsed.all("thead")) == len(parsed.all("table")) == 6
    assert all(image["alt"] for image in parsed.all("img"))
    assert all(sound["aria-label"] and "controls" in sound for sound in parsed.all("audio"))
    for drawing in parsed.all("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing["role"] == "img" and drawing["aria-label"])
    for box in (a for _, a in parsed.elements if a.get("class") == "scroll"):
        assert (box["role"], box["tabindex"]) == ("region", "0")
        assert box["aria-label"]


def test_nothing_is_loaded_and_nothing_runs(report: Report) -> None:
    html = render(report)
    parsed = Page(html)
    assert not re.search(
        r"https?:|//[a-z]|url\(|@import|javascript:", re.sub(r"data:\w+/\w+;base64,[\w+/=]+", "", html)
    )
    assert {tag for tag, _ in parsed.elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    } == set()
    for tag, attributes in parsed.elements:
        assert not any(name.startswith("on") for name in attributes), tag
        if "src" in attributes:
            assert (attributes["src"] or "").startswith(("data:image/", "data:audio/"))
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("#") or attributes["href"] == "report.json"
    policies = [meta["content"] or "" for meta in parsed.all("meta") if meta.get("http-equiv")]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none';")
    assert "script" not in policies[0]


def _poisoned(value: Any, key: str = "") -> Any:
    """The same data with hostile text wherever text is free."""
    if isinstance(value, dict):
        kept = {"latency_ms", "quality", "without", "shuffled", "per_modality", "versions"}
        names = kept - {"latency_ms", "quality"}
        return {(HOSTILE + k if key in names else k): _poisoned(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_poisoned(item, key) for item in value]
    fixed = key in {"verdict", "kind", "model"} or value in {"before", "after"} or str(value).startswith("data:")
    return value if fixed or not isinstance(value, str) else value + HOSTILE


def test_hostile_text_stays_text(data: dict[str, Any], report: Report) -> None:
    honest, poisoned = Page(render(report)), Page(render(Report.model_validate(_poisoned(data))))
    assert [tag for tag, _ in poisoned.elements] == [tag for tag, _ in honest.elements]
    assert poisoned.text.count("<script>alert('x')</script>") > 100
    assert "{{ 7*7 }}" in poisoned.text
    assert {name for _, a in poisoned.elements for name in a} == {name for _, a in honest.elements for name in a}


def test_numbers_are_those_of_report_json(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    said = [words.headline(read_report(tmp_path)), f"{found['ratio']['bytes']:.1f}\u00d7"]
    for side in (found["before"], found["after"]):
        said += [
            human_bytes(side["bytes"]),
            f"{side['latency_ms']['p50']:.1f} ms",
            human_bytes(side["peak_memory_bytes"]),
        ]
        shares = [side["quality"]["all"], *side["quality"]["without"].values(), *side["quality"]["shuffled"].values()]
        said += [percent(share) for share in shares]
    for item in found["contract"]["per_modality"].values():
        low, high = item["interval"]
        said.append(f"{100 * item['kept']:.1f}% kept ({100 * low:.1f} to {100 * high:.1f}%)")
    for part in found["components"]:
        said += [part["name"], part["decision"], human_bytes(part["bytes_before"]), human_bytes(part["bytes_after"])]
    for layer in found["plan"]:
        said += [layer["name"], layer["scheme"], human_bytes(layer["bytes_after"])]
        said += [f"{layer['sqnr_db']:.1f} dB"] if layer["sqnr_db"] else []
    for row in found["engines"]:
        said += [row["engine"], f"{row['latency_ms']['p95']:.1f} ms", f"{row['ratio']:.2f}\u00d7"]
    for sample in found["worst"]:
        said += [sample["place"], f"{100 * sample['after']['probability']:.0f}%"]
    said += [
        found["data"]["sha256"],
        found["command"],
        found["environment"]["cpu"],
        *found["notes"],
        *found["measured"],
    ]
    missing = [words_ for words_ in said if words_ not in text]
    assert missing == []


def test_the_same_report_gives_the_same_bytes(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    first = [(tmp_path / name).read_bytes() for name in ("report.json", "report.html")]
    write_report(read_report(tmp_path), tmp_path)
    assert first == [(tmp_path / name).read_bytes() for name in ("report.json", "report.html")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_size_stays_small(report: Report, data: dict[str, Any]) -> None:
    media = sum(len(field.value or "") for sample in report.worst for field in sample.fields)
    assert len(render(report)) - media < 60_000
    data["plan"] = [{**data["plan"][0], "name": f"layer.{i}"} for i in range(2000)]
    assert len(render(Report.model_validate(data))) < 1_500_000


def test_sections_without_content_are_left_out(data: dict[str, Any]) -> None:
    parsed = Page(render(Report.model_validate(_minimal(data))))
    assert [section["id"] for section in parsed.all("section")] == ["tradeoff", "quality", "measured"]
    assert "Compression report" in parsed.text


def test_one_modality_and_nothing_else_measured(data: dict[str, Any]) -> None:
    data = _minimal(data)
    for side in ("before", "after"):
        data[side]["quality"] = {"metric": "mean absolute error", "all": 0.25}
        data[side]["peak_memory_bytes"] = None
    data["contract"]["per_modality"] = {"text": {"keep": 0.99}}
    text = Page(render(Report.model_validate(data))).text
    assert "text contributed nothing measurable before" in text
    assert "Mean absolute error with" in text
    assert "Peak memory" not in text


def test_a_broken_promise_is_the_first_thing_said(data: dict[str, Any]) -> None:
    data["contract"]["verdict"] = "broken"
    data["contract"]["per_modality"]["audio"] = {"keep": 0.99, "kept": 0.93, "interval": (0.91, 0.95)}
    text = Page(render(Report.model_validate(data))).text
    assert "Promise broken" in text
    assert "audio keeps 93.0%" in text
    assert text.index("Promise broken") < text.index("Smaller")


def test_a_change_of_engine_is_not_sold_as_compression(report: Report, data: dict[str, Any]) -> None:
    assert "PyTorch to OpenVINO; 2.3\u00d7 in one engine" in Page(render(report)).text
    data["before"]["engine"] = "OpenVINO"
    assert "both in OpenVINO" in Page(render(Report.model_validate(data))).text


def test_long_text_of_a_sample_is_cut(data: dict[str, Any]) -> None:
    data["worst"][0]["fields"][2]["value"] = "word " * 5000
    html = render(Report.model_validate(data))
    assert html.count("word ") < page.TEXT_SHOWN / 4


def test_where_both_models_looked_stands_beside_the_sample(data: dict[str, Any]) -> None:
    plain = Page(render(Report.model_validate(data)))
    assert "Light and shade" not in plain.text
    picture, _, text = data["worst"][0]["fields"]
    picture["looks"] = [{"name": name, "picture": picture["value"]} for name in ("before", "after")]
    text["looks"] = [{"name": "after", "pieces": [{"text": "bell", "weight": 1}, {"text": "rings", "weight": -0.25}]}]
    page = Page(render(Report.model_validate(data)))
    assert "Light and shade show where each found what speaks for the truth" in page.text
    assert len(page.all("img")) == len(plain.all("img")) + 2
    shades = [(a.get("class"), a["style"]) for a in page.all("span") if a.get("style")]
    assert shades == [("for", "--w:100%"), ("against", "--w:25%")]


def test_a_long_plan_starts_folded(data: dict[str, Any]) -> None:
    assert Page(render(Report.model_validate(data))).all("details") == [{}]
    data["plan"] = data["plan"][:3]
    assert Page(render(Report.model_validate(data))).all("details") == [{"open": None}]


def test_an_attempt_that_was_taken_is_drawn_once(data: dict[str, Any]) -> None:
    after = data["curve"][-1]
    data["curve"] = [data["curve"][0], {**after, "label": "plan 3"}, after]
    assert render(Report.model_validate(data)).count("plan 3") == 0


def _luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(scheme: int) -> None:
    style = (Path(page.__file__).parent / "style.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    for text in ("ink", "soft", "accent", "alert"):
        for ground in ("paper", "raised", "faint"):
            light, dark = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
