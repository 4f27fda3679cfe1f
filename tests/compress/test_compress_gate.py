from dataclasses import replace

import numpy as np
import pytest

from triptych.compress.gate import Contract, judge
from triptych.evaluate.quality import Quality


def quality(all_, without):
    scores = {"all": np.array(all_, dtype=np.float64)} | {
        f"without:{name}": np.array(values, dtype=np.float64) for name, values in without.items()
    }
    return Quality("accuracy", scores, scores, np.zeros((len(all_), 2), dtype=np.float32), {})


ROWS = 2000
RIGHT = np.ones(ROWS)
HALF = np.arange(ROWS) % 2


@pytest.fixture
def before():
    return quality(RIGHT, {"image": HALF, "sound": HALF, "noise": RIGHT})


def test_an_equal_model_keeps_everything(before):
    verdict = judge(Contract(keep=0.99, keep_modality=0.99), before, before, [])
    assert not verdict.broken
    assert verdict.kept.point == verdict.kept.low == 1


def test_a_dead_modality_breaks_the_contract_even_where_the_whole_is_kept(before):
    after = quality(RIGHT, {"image": RIGHT, "sound": HALF, "noise": RIGHT})  # it no longer needs the image
    verdict = judge(Contract(keep=0.99, keep_modality=0.95), before, after, [])
    assert len(verdict.broken) == 1
    assert verdict.broken[0].startswith("contribution of image kept 0.0%")


def test_a_modality_that_never_contributed_is_not_judged(before):
    verdict = judge(Contract(keep=0.99, keep_modality=0.99), before, before, [])
    assert np.isnan(verdict.modalities["noise"].interval.point)
    assert not verdict.broken


def test_the_lower_bound_decides_not_the_point(before):
    after_all = RIGHT.copy()
    after_all[:38] = 0  # 98.1 % kept, but not surely 98 %
    after = quality(after_all, {"image": HALF * after_all, "sound": HALF * after_all, "noise": after_all})
    verdict = judge(Contract(keep=0.98, keep_modality=0.9), before, after, [])
    assert verdict.kept.point > 0.98 > verdict.kept.low
    assert verdict.broken[0].startswith("quality kept 98.1%, lower bound 97.")


def test_coin_tosses_without_a_modality_do_not_widen_the_interval():
    """Two models that know the same and toss the coin of a tie differently."""
    tosses = np.random.default_rng(0).integers(0, 2, (2, ROWS)).astype(np.float64)
    one, other = (
        replace(quality(RIGHT, {"image": toss}), soft={"all": RIGHT * 0.95, "without:image": np.full(ROWS, 0.49)})
        for toss in tosses
    )
    kept = judge(Contract(keep=0.98, keep_modality=0.97), one, other, []).modalities["image"]
    assert kept.interval == (1, 1, 1)
    assert kept.answers.point == pytest.approx((1 - tosses[1].mean()) / (1 - tosses[0].mean()))


def test_confidence_alone_does_not_buy_a_contribution(before):
    """Answers that lean on the image less, given with more confidence, do not pass."""
    leaning = HALF.copy()
    leaning[::10] = 1
    after = quality(RIGHT, {"image": leaning, "sound": HALF, "noise": RIGHT})
    after = replace(after, soft=before.soft)
    verdict = judge(Contract(keep=0.99, keep_modality=0.95), before, after, [])
    (said,) = verdict.broken
    assert said.startswith("contribution of image kept 100.0% in probability, but 80.0% (")
    assert said.endswith(") < 95.0% in answers")


def test_one_answer_of_fourteen_is_no_broken_promise():
    """Where either modality would do alone, what one adds is a handful of rows, and chance takes one of them."""
    before, after = (np.concatenate([np.zeros(count), np.ones(1_000 - count)]) for count in (14, 13))
    all_right = np.ones(1_000)
    soft = {"all": all_right, "without:image": np.full(1_000, 0.9)}
    one, other = (replace(quality(all_right, {"image": without}), soft=soft) for without in (before, after))
    verdict = judge(Contract(keep=0.97, keep_modality=0.95), one, other, [])
    assert verdict.modalities["image"].answers.point == pytest.approx(13 / 14)
    assert not verdict.broken
