from itertools import pairwise

import pytest

from triptych.train.schedule import plateaus, rate, waited
from triptych.train.settings import ScheduleSettings


def test_warm_up_rises_in_equal_steps_and_cosine_falls_to_its_floor():
    settings = ScheduleSettings(name="cosine", warmup=0.1, floor=0.1)
    rates = [rate(settings, step, 100, []) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.55)  # half way down from 1 to 0.1
    assert rate(settings, 100, 100, []) == pytest.approx(0.1)


def test_linear_is_a_straight_line():
    settings = ScheduleSettings(name="linear", warmup=0)
    assert [rate(settings, step, 4, []) for step in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_plateau_multiplies_after_every_wait_without_gain():
    settings = ScheduleSettings(name="plateau", warmup=0, factor=0.5, patience=2)
    assert rate(settings, 9, 10, [0.1, 0.2]) == 1
    assert rate(settings, 9, 10, [0.2, 0.1, 0.2]) == 0.5
    assert rate(settings, 9, 10, [0.2, 0.1, 0.2, 0.3]) == 0.5
    assert rate(settings, 9, 10, [0.2, 0.1, 0.2, 0.1, 0.1]) == 0.25


def test_waiting_is_counted_from_the_first_best():
    assert waited([]) == 0
    assert waited([0.1, 0.5, 0.5, 0.4]) == 2
    assert plateaus([0.5, 0.4, 0.4, 0.4], 3) == 1
