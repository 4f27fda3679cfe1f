from pathlib import Path

import pytest
import torch

from triptych.data.tabular import CategoryFeatures, NumberFeatures, parse_number
from triptych.errors import InputError
from triptych.structure import Features

WHERE = "rows.csv, line 3, column age"
ROOT = Path()


def test_categories_are_sorted_and_rare_or_new_ones_share_0():
    features = CategoryFeatures(CategoryFeatures.Config()).fit(["b", "a", "b", "a", "rare", 7, 7])
    assert features.categories == ("7", "a", "b")
    assert features.shape == Features(kind="category", shape=(1,), vocabulary=4)
    assert [features.load(cell, ROOT, WHERE).item() for cell in ("a", "b", 7, "rare", "new")] == [2, 3, 1, 0, 0]
    again = CategoryFeatures.from_state(features.state())
    assert again.categories == features.categories
    assert CategoryFeatures(CategoryFeatures.Config(most=1, at_least=1)).fit("aab").categories == ("a",)


@pytest.mark.parametrize("scale", ["standard", "log"])
def test_numbers_are_standardised(scale):
    cells = ["1e9", "1000000001", 1000000002.0, 1_000_000_003]
    features = NumberFeatures(NumberFeatures.Config(scale=scale)).fit(cells)
    x = torch.stack([features.load(cell, ROOT, WHERE) for cell in cells])
    assert x.shape == (4, 1)
    assert torch.allclose(x.mean(), torch.tensor(0.0), atol=1e-3)
    assert torch.allclose(x.std(correction=0), torch.tensor(1.0), atol=1e-3)
    assert torch.equal(NumberFeatures.from_state(features.state()).load("1e9", ROOT, WHERE), x[0])


def test_a_constant_stays_finite_and_none_leaves_numbers_alone():
    assert NumberFeatures(NumberFeatures.Config()).fit([5, 5]).load(5, ROOT, WHERE).tolist() == [0.0]
    assert NumberFeatures(NumberFeatures.Config(scale="none")).fit([5, 9]).load(7, ROOT, WHERE).tolist() == [7.0]
    assert NumberFeatures(NumberFeatures.Config()).fit([]).load(7, ROOT, WHERE).tolist() == [7.0]


@pytest.mark.parametrize("cell", ["nan", float("nan"), "inf", "-Infinity"])
def test_nan_and_infinity_are_refused(cell):
    with pytest.raises(InputError) as caught:
        parse_number(cell, WHERE)
    assert str(caught.value) == (
        f"rows.csv, line 3, column age: {cell} is not a finite number. Leave the cell empty if the value is not known."
    )


@pytest.mark.parametrize("cell", ["twelve", [1], "1,5"])
def test_what_is_no_number_is_refused(cell):
    with pytest.raises(InputError) as caught:
        parse_number(cell, WHERE)
    assert str(caught.value) == (
        f"rows.csv, line 3, column age: {cell!r} is not a number. Mend the cell, or the column's kind."
    )
