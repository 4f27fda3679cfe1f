import inspect

import numpy as np
import pytest

from triptych.errors import InputError, NumericsError
from triptych.evaluate import bootstrap
from triptych.evaluate.bootstrap import Interval, difference, kept_contribution, paired_bootstrap


def answers(rows, share, seed):
    return (np.random.default_rng(seed).random(rows) < share).astype(float)


def width(interval):
    return interval.high - interval.low


def test_the_same_scores_keep_everything_exactly():
    scores = answers(50, 0.8, 0)
    assert paired_bootstrap(scores, scores, seed=3) == Interval(1.0, 1.0, 1.0)


def test_booleans_are_scores():
    right = answers(50, 0.8, 0) > 0
    assert paired_bootstrap(right, right, seed=3).point == 1.0


def test_the_seed_alone_decides():
    before, after = answers(60, 0.8, 0), answers(60, 0.7, 1)
    assert paired_bootstrap(before, after, seed=5) == paired_bootstrap(before, after, seed=5)
    assert paired_bootstrap(before, after, seed=5) != paired_bootstrap(before, after, seed=6)


def test_how_many_repeats_come_at_a_time_does_not_matter(monkeypatch):
    before, after = answers(60, 0.8, 0), answers(60, 0.7, 1)
    groups = [np.arange(60) % 7, np.arange(60) % 11]
    whole = paired_bootstrap(before, after, groups, seed=5, repeats=101)
    monkeypatch.setattr(bootstrap, "_CHUNK", 130)
    np.testing.assert_allclose(paired_bootstrap(before, after, groups, seed=5, repeats=101), whole, rtol=1e-12)


def test_pairing_makes_the_interval_narrower():
    before = answers(500, 0.7, 0)
    after = before.copy()
    after[:15] = 1 - after[:15]
    unrelated = np.random.default_rng(1).permutation(after)
    assert width(paired_bootstrap(before, after, seed=0)) < 0.5 * width(paired_bootstrap(before, unrelated, seed=0))


def test_rows_of_one_group_are_not_independent():
    speakers = np.repeat(np.arange(10), 40)
    before = np.ones(400)
    after = (speakers < 8).astype(float)  # two of ten speakers are lost altogether
    alone, grouped = paired_bootstrap(before, after, seed=0), paired_bootstrap(before, after, [speakers], seed=0)
    assert alone.low > 0.7
    assert grouped.low < 0.6


def test_names_of_groups_do_not_matter():
    before, after = answers(40, 0.8, 0), answers(40, 0.7, 1)
    numbers = np.arange(40) // 4
    texts = np.array([f"speaker {n}" for n in numbers], dtype=object)
    assert paired_bootstrap(before, after, [numbers], seed=1) == paired_bootstrap(before, after, [texts], seed=1)


@pytest.mark.parametrize("absent", [None, "", float("nan")])
def test_a_row_without_a_group_shares_nothing(absent):
    before, after = answers(40, 0.8, 0), answers(40, 0.7, 1)
    column = np.array([absent] * 40, dtype=object)
    assert paired_bootstrap(before, after, [column], seed=1) == paired_bootstrap(before, after, seed=1)


def test_a_column_nested_in_another_adds_nothing():
    before, after = answers(40, 0.8, 0), answers(40, 0.7, 1)
    clips, speakers, everyone = np.arange(40) // 2, np.arange(40) // 8, np.zeros(40, dtype=int)
    speakers_alone = paired_bootstrap(before, after, [speakers], seed=1)
    for columns in ([clips, speakers], [speakers, clips], [speakers, speakers], [everyone, speakers, np.arange(40)]):
        assert paired_bootstrap(before, after, columns, seed=1) == speakers_alone
    assert paired_bootstrap(before, after, [everyone], seed=1) == paired_bootstrap(before, after, seed=1)


def test_crossing_columns_count_the_noise_of_single_rows_three_times():
    photos, speakers = np.divmod(np.arange(900), 30)
    before = np.ones(900)
    after = 1 + np.random.default_rng(0).normal(0, 0.1, 900)
    plain = width(paired_bootstrap(before, after, statistic=difference, seed=0))
    crossed = width(paired_bootstrap(before, after, [photos, speakers], difference, seed=0))
    assert crossed / plain == pytest.approx(3**0.5, rel=0.12)


@pytest.mark.parametrize("crossed", [False, True])
def test_coverage_with_noise_of_photos_and_speakers(crossed):
    """95 % intervals hold the truth at least about as often as they say; rows taken as independent do not."""
    rng = np.random.default_rng(0)
    photos, speakers = np.divmod(np.arange(400), 20)
    held = 0
    for trial in range(100):
        noise = rng.normal(0, 1, 20)[photos] + rng.normal(0, 1, 20)[speakers] + rng.normal(0, 1, 400)
        groups = [photos, speakers] if crossed else None
        found = paired_bootstrap(np.zeros(400), noise, groups, difference, repeats=200, seed=trial)
        held += found.low <= 0 <= found.high
    assert held >= 90 if crossed else held <= 70


def test_kept_contribution_is_the_ratio_of_what_the_modality_adds():
    found = kept_contribution(np.full(20, 0.9), np.full(20, 0.5), np.full(20, 0.8), np.full(20, 0.6), seed=0)
    np.testing.assert_allclose(found, [0.5, 0.5, 0.5])


def test_a_modality_that_added_nothing_has_nothing_to_keep():
    scores = answers(30, 0.5, 0)
    found = kept_contribution(scores, scores, scores, scores * 0, seed=0)
    assert np.isnan(found.point)
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_a_contribution_that_may_be_nothing_has_no_bounds():
    without = np.zeros(30)
    with_it = without.copy()
    with_it[0] = 1.0  # one row of thirty: a third of the resamples miss it
    found = kept_contribution(with_it, without, with_it, without, seed=0)
    assert found == Interval(1.0, -np.inf, np.inf)


def test_a_statistic_of_ones_own():
    def larger(before, after, weights):
        return (weights * (after > before)).sum(1) / weights.sum(1)

    found = paired_bootstrap(np.zeros(100), np.arange(100.0) - 25.5, statistic=larger, seed=0)
    assert found.point == 0.74
    assert found.low < 0.74 < found.high


def test_errors_name_what_is_wrong():
    two = np.ones(2)
    with pytest.raises(InputError, match=r"at least 2 rows, not 1\. Evaluate on more data"):
        paired_bootstrap(np.ones(1), np.ones(1), seed=0)
    with pytest.raises(InputError, match=r"repeats is 0 and confidence 0\.95"):
        paired_bootstrap(two, two, repeats=0, seed=0)
    with pytest.raises(InputError, match=r"confidence 1\.0"):
        paired_bootstrap(two, two, confidence=1.0, seed=0)
    with pytest.raises(NumericsError, match=r"score after of row 1 is nan"):
        paired_bootstrap(two, np.array([1.0, np.nan]), seed=0)
    with pytest.raises(NumericsError, match=r"score without it after of row 0 is inf"):
        kept_contribution(two, two, two, np.array([np.inf, 1.0]), seed=0)


def test_columns_of_different_lengths_are_refused():
    unchecked = inspect.unwrap(paired_bootstrap)  # the shape check of the tests would be first
    with pytest.raises(InputError, match=r"different numbers of rows: \[2, 3\]\. Pair them row by row"):
        unchecked(np.ones(2), np.ones(3), seed=0)
    with pytest.raises(InputError, match=r"\[2, 3\]"):
        unchecked(np.ones(2), np.ones(2), [np.arange(3)], seed=0)
    with pytest.raises(InputError, match=r"\[2, 2, 2, 3\] rows"):
        inspect.unwrap(kept_contribution)(np.ones(2), np.ones(2), np.ones(2), np.ones(3), seed=0)
