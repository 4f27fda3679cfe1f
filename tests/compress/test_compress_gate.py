import numpy as np
import pytest

from triptych.compress.gate import Contract, judge
from triptych.evaluate.quality import Quality


def quality(all_, without):
    scores = {"all": np.array(all_, dtype=np.float64)} | {
        f"without:{name}": np.array(values, dtype=np.float64) for name, values in without.items()
    }
    return Quality("accuracy", scores, np.zeros((len(all_), 2), dtype=np.float32), {})


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
    assert verdict.report()["verdict"] == "kept"


def test_a_dead_modality_breaks_the_contract_even_where_the_whole_is_kept(before):
    after = quality(RIGHT, {"image": RIGHT, "sound": HALF, "noise": RIGHT})  # it no longer needs the image
    verdict = judge(Contract(keep=0.99, keep_modality=0.95), before, after, [])
    assert len(verdict.broken) == 1
    assert verdict.broken[0].startswith("contribution of image kept 0.0%")


def test_a_modality_that_never_contributed_is_not_judged(before):
    verdict = judge(Contract(keep=0.99, keep_modality=0.99), before, before, [])
    assert np.isnan(verdict.modalities["noise"].point)
    assert not verdict.broken


def test_the_lower_bound_decides_not_the_point(before):
    after_all = RIGHT.copy()
    after_all[:38] = 0  # 98.1 % kept, but not surely 98 %
    after = quality(after_all, {"image": HALF * after_all, "sound": HALF * after_all, "noise": after_all})
    verdict = judge(Contract(keep=0.98, keep_modality=0.9), before, after, [])
    assert verdict.kept.point > 0.98 > verdict.kept.low
    assert verdict.broken[0].startswith("quality kept 98.1%, lower bound 97.")
