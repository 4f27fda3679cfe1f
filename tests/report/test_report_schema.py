"""report.json: what it holds, what it refuses, and that it comes back as it was written."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from triptych.errors import InputError
from triptych.report.page import write_report
from triptych.report.schema import LayerPlan, Ratio, Report, SampleField, read_report

SIDE = {"bytes", "parameters", "latency_ms", "peak_memory_bytes", "engine", "quality"}


def test_written_and_read_back_it_is_the_same(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    assert read_report(tmp_path) == report
    assert read_report(tmp_path / "report.json") == report


def test_json_has_the_documented_keys(report: Report) -> None:
    written = json.loads(report.to_json())
    assert written["schema"] == 1
    assert {"before", "after", "ratio", "contract", "components", "environment", "data", "seconds"} <= set(written)
    for side in ("before", "after"):
        assert set(written[side]) == SIDE
        assert set(written[side]["quality"]) == {"metric", "all", "without", "shuffled"}
    assert set(written["contract"]) >= {"keep", "kept", "interval", "per_modality", "verdict"}
    assert set(written["environment"]) == {"cpu", "threads", "versions"}
    assert set(written["data"]) == {"rows", "sha256"}


def test_ratio_is_before_over_after_where_it_is_not_given(report: Report, data: dict[str, Any]) -> None:
    assert "ratio" not in data
    assert report.ratio.bytes == pytest.approx(45_087_860 / 6_123_860)
    assert report.ratio.latency == pytest.approx(41.3 / 10.1)
    assert report.ratio.memory == pytest.approx(612 / 188)
    assert report.ratio == Ratio.between(report.before, report.after)
    given = Report.model_validate({**data, "ratio": {"bytes": 7.4, "latency": 4.1}})
    assert (given.ratio.bytes, given.ratio.memory) == (7.4, None)


def test_memory_that_was_not_measured_has_no_ratio(data: dict[str, Any]) -> None:
    data["after"]["peak_memory_bytes"] = None
    assert Report.model_validate(data).ratio.memory is None


def test_contribution_is_what_removing_costs(report: Report) -> None:
    assert report.before.quality.contribution("audio") == pytest.approx(0.924 - 0.538)


def test_nan_is_refused_where_a_number_is_due_and_none_where_it_may_lack(data: dict[str, Any]) -> None:
    data["plan"][0]["sqnr_db"] = float("inf")
    assert Report.model_validate(data).plan[0].sqnr_db is None
    data["contract"]["per_modality"]["text"] = {
        "keep": 0.99,
        "kept": float("nan"),
        "interval": (float("nan"), float("inf")),
    }
    lacking = Report.model_validate(data).contract.per_modality["text"]
    assert (lacking.kept, lacking.interval) == (None, None)
    data["after"]["quality"]["all"] = float("nan")
    with pytest.raises(ValidationError, match=r"after\.quality\.all\n.*finite number"):
        Report.model_validate(data)


def test_points_are_known_by_their_labels(report: Report) -> None:
    assert [point.kind for point in report.curve] == ["before", "attempt", "attempt", "after"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("image", "data:image/svg+xml;base64,PHN2Zz4="),
        ("image", "https://example.com/a.png"),
        ("image", 'data:image/png;base64,AAAA" onerror="alert(1)'),
        ("audio", "data:text/html;base64,AAAA"),
        ("audio", "sound.ogg"),
    ],
)
def test_only_embedded_pictures_and_sounds_of_known_formats(kind: str, value: str) -> None:
    with pytest.raises(ValidationError, match=f"field 'x': {kind} must be a base64 data URI of a known format"):
        SampleField.model_validate({"name": "x", "kind": kind, "value": value})


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="sqrn_db"):
        LayerPlan.model_validate({"name": "a", "sqrn_db": 1.0})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\.json cannot be read: No such file.*Name a report\.json or a folder"):
        read_report(tmp_path)


def test_a_wrong_file_is_named_with_the_field_and_the_next_step(data: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"report\.json is not a report of version 1: the whole file: Invalid JSON"):
        read_report(path)
    path.write_text(json.dumps({**data, "schema": 2}), encoding="utf-8")
    with pytest.raises(InputError, match=r"not a report of version 1: schema: .*the version of Triptych that wrote it"):
        read_report(path)
    del data["before"]["bytes"]
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match=r"before\.bytes: Field required"):
        read_report(path)
