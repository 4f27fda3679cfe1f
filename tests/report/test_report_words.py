"""The page's words: rounding is short but never on the wrong side of the promise."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.report import words
from triptych.report.schema import Report


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (10.24, "10.2 times smaller"),
        (4.09, "4.1 times smaller"),
        (1.2, "1.20 times smaller"),
        (131.4, "131 times smaller"),
        (0.5, "2.0 times larger"),
        (1.001, "the same size"),
    ],
)
def test_ratios_in_words(ratio: float, said: str) -> None:
    assert words.compared(ratio, "smaller", "larger", "the same size") == said


def test_ratios_with_their_sign() -> None:
    assert words.times(10.24) == "10.2\u00d7"
    assert words.times(None) == "\u2013"
    assert words.factor(4.089) == "4.09\u00d7"


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.9968, "99.7%"), (0.98996, "98.996%"), (0.9897, "98.97%"), (0.99, "99.0%"), (0.90004, "90.0%")],
)
def test_a_kept_share_shows_on_which_side_of_the_promise_it_is(value: float, said: str) -> None:
    assert words.kept_share(value, 0.99) == said


@given(st.floats(0.5, 1.2), st.sampled_from([0.9, 0.95, 0.99, 0.995]))
def test_rounding_never_hides_a_broken_promise(value: float, keep: float) -> None:
    shown = float(words.kept_share(value, keep).removesuffix("%"))
    if abs(value - keep) > 1e-6:
        assert (shown >= round(100 * keep, 9)) == (value >= keep)


def test_intervals() -> None:
    assert words.interval((0.9861, 1.0012), 0.99) == "98.6 to 100.1%"
    assert words.interval((0.98999, 1.0), 0.99) == "98.999 to 100.0%"
    assert words.interval(None, 0.99) == ""


def test_standing_to_the_promise() -> None:
    assert words.standing(0.995, (0.991, 1.0), 0.99) == "kept"
    assert words.standing(0.995, (0.98, 1.0), 0.99) == "not certain"
    assert words.standing(0.985, (0.97, 1.0), 0.99) == "broken"
    assert words.standing(None, None, 0.99) == ""


def test_metrics() -> None:
    assert words.quality(0.918, "accuracy") == "91.8%"
    assert words.quality(0.918, "macro F1") == "91.8%"
    assert words.quality(0.918, "recall@10") == "91.8%"
    assert words.quality(0.9184, "perplexity") == "0.92"
    assert words.quality(12.34, "mean absolute error") == "12.3"
    assert words.difference(-0.003, "accuracy") == "\u22120.3"
    assert words.difference(0.0001, "accuracy") == "0.0"
    assert words.difference(0.25, "loss") == "+0.25"


def test_counts_and_shapes() -> None:
    assert [words.count(n) for n in (965, 641_000, 6_120_000, 1_500_000_000)] == ["965", "641 k", "6.12 M", "1.50 G"]
    assert words.shape((64, 576), (64, 576)) == "64 \u00d7 576"
    assert words.shape((64, 576), (48, 576)) == "64 \u00d7 576 \u2192 48 \u00d7 576"
    assert words.goal(0.995) == "99.5%"


def test_headline_of_a_kept_promise(report: Report) -> None:
    said = "7.4 times smaller and 4.1 times faster, with its accuracy kept at 99.7% (99.1 to 100.2%)."
    assert words.headline(report) == said
    assert words.promise(report).endswith("The weakest is text, with 99.2% (99.0 to 102.1%) kept.")


def test_headline_of_a_broken_promise_names_the_modality(data: dict[str, Any]) -> None:
    data["contract"]["verdict"] = "broken"
    data["contract"]["per_modality"]["audio"] = {"keep": 0.99, "kept": 0.93, "interval": (0.91, 0.95)}
    broken = words.headline(Report.model_validate(data))
    assert broken.endswith("but the promise is broken: audio keeps 93.0% (91.0 to 95.0%) where 99% was promised.")


def test_headline_of_a_broken_whole(data: dict[str, Any]) -> None:
    data["contract"] |= {"verdict": "broken", "kept": 0.9, "interval": (0.88, 0.92), "per_modality": {}}
    broken = words.headline(Report.model_validate(data))
    assert "the whole model keeps 90.0% (88.0 to 92.0%) where 99% was promised" in broken


def test_headline_does_not_call_slower_faster(data: dict[str, Any]) -> None:
    data["after"]["latency_ms"] = {"p50": 82.6, "p95": 90.0}
    assert "and 2.0 times slower" in words.headline(Report.model_validate(data))


def test_speed_in_one_engine_leaves_the_change_of_engine_out(report: Report, data: dict[str, Any]) -> None:
    assert words.same_engine(report) == pytest.approx(23.6 / 10.1)
    data["engines"] = data["engines"][::2]
    assert words.same_engine(Report.model_validate(data)) is None


def test_each_modality_may_have_a_promise_of_its_own(data: dict[str, Any]) -> None:
    for item in data["contract"]["per_modality"].values():
        item["keep"] = 0.95
    sentence = words.promise(Report.model_validate(data))
    assert sentence.startswith(
        "Promised: at least 99% of the quality, and 95% of what each modality contributes to it."
    )


def test_a_promise_that_only_the_answers_break_is_said(data: dict[str, Any]) -> None:
    sound = {"keep": 0.99, "kept": 1.0, "interval": (0.995, 1.01), "kept_answers": 0.9}
    data["contract"] |= {"verdict": "broken", "kept": 1.0, "interval": (0.999, 1.001), "per_modality": {"audio": sound}}
    assert "audio keeps 90.0% by its answers where 99% was promised" in words.headline(Report.model_validate(data))
