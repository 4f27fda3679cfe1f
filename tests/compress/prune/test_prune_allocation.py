import pytest
import torch

from triptych.compress.prune import allocate
from triptych.errors import BudgetError, InputError, NumericsError


def uniform(units, seed):
    return torch.rand(units, generator=torch.Generator().manual_seed(seed))


def test_the_most_important_units_stay():
    scores = {"w": torch.tensor([5.0, 1.0, 9.0, 1.0, 7.0, 3.0, 8.0, 0.0])}
    assert allocate(scores, {"w": 2.0}, 0.5)["w"].tolist() == [0, 2, 4, 6]
    assert allocate(scores, {"w": 2.0}, 0.9, multiple=1)["w"].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_the_budget_holds_and_is_used():
    scores = {"vision": uniform(64, 0), "audio": uniform(40, 1), "text": uniform(10, 2)}
    costs = {"vision": 100, "audio": 333.3, "text": 7}
    whole = sum(len(scores[name]) * costs[name] for name in scores)
    for fraction in (0.2, 0.5, 0.9):
        kept = allocate(scores, costs, fraction)
        spent = sum(len(kept[name]) * costs[name] for name in scores)
        assert fraction * whole - 4 * 333.3 <= spent <= fraction * whole
        for name, keep in kept.items():
            units = len(scores[name])
            assert len(keep) % 4 == 0 or len(keep) == units
            assert len(keep) >= 0.1 * units
            assert keep.tolist() == sorted(set(keep.tolist()))


def test_the_whole_budget_keeps_everything():
    assert allocate({"w": torch.ones(6)}, {"w": 1.0}, 1.0)["w"].tolist() == [0, 1, 2, 3, 4, 5]


def test_loudness_does_not_decide_between_towers():
    quiet, loud = uniform(40, 0), uniform(40, 0)
    kept = allocate({"quiet": 1e-9 * quiet, "loud": 1e9 * loud}, {"quiet": 1.0, "loud": 1.0}, 0.5)
    assert abs(len(kept["quiet"]) - len(kept["loud"])) <= 4


def test_dear_units_go_first():
    kept = allocate({"dear": uniform(40, 0), "cheap": uniform(40, 0)}, {"dear": 10.0, "cheap": 1.0}, 0.5)
    assert len(kept["dear"]) < len(kept["cheap"])


def test_the_floor_stands_even_where_nothing_matters():
    flat = torch.zeros(40)
    flat[0] = 1.0
    kept = allocate({"flat": flat, "even": torch.ones(40)}, {"flat": 1.0, "even": 1.0}, 0.6, floor=0.3)
    assert (len(kept["flat"]), len(kept["even"])) == (12, 36)
    assert allocate({"w": torch.zeros(8)}, {"w": 1.0}, 0.5)["w"].tolist() == [0, 1, 2, 3]
    assert len(allocate({"w": torch.ones(30)}, {"w": 1.0}, 0.1, floor=0.1, multiple=1)["w"]) == 3


def test_heads_may_count_one_by_one():
    scores = {"heads": torch.arange(6.0), "hidden": torch.arange(16.0)}
    kept = allocate(scores, {"heads": 1.0, "hidden": 1.0}, 0.5, multiple={"hidden": 8})
    assert len(kept["hidden"]) == 8
    assert len(kept["heads"]) == 3


def test_an_impossible_budget_says_the_smallest():
    with pytest.raises(
        BudgetError, match=r"5 units of cost cannot be met: the smallest .* is 50 units of cost \(50\.0 %\)"
    ):
        allocate({"w": torch.ones(100)}, {"w": 1.0}, 0.05, floor=0.5, multiple=1)


@pytest.mark.parametrize("bad", [-1.0, torch.nan, torch.inf])
def test_scores_that_are_no_importance_are_refused(bad):
    with pytest.raises(NumericsError, match="The scores of width 'w' are not finite numbers from 0"):
        allocate({"w": torch.tensor([1.0, bad])}, {"w": 1.0}, 0.5)


def test_settings_out_of_range_are_refused():
    scores = {"w": torch.ones(4)}
    with pytest.raises(InputError, match=r"A budget of 1\.5 with a floor of 0\.1"):
        allocate(scores, {"w": 1.0}, 1.5)
    with pytest.raises(InputError, match="Width 'w' has no cost per unit"):
        allocate(scores, {}, 0.5)
    with pytest.raises(InputError, match="Width 'w' cannot keep multiples of 0 units"):
        allocate(scores, {"w": 1.0}, 0.5, multiple=0)
