import pytest

from triptych.compress.amounts import parse_amount
from triptych.errors import InputError


@pytest.mark.parametrize(("text", "value"), [("25%", 250.0), ("40kB", 40_000.0), ("1.5MB", 1_500_000.0), ("7B", 7.0)])
def test_amounts_are_shares_or_units(text, value):
    assert parse_amount(text, 1000, {"MB": 1e6, "kB": 1e3, "B": 1}, "size") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "25", "-3%", "many MB", "0%"])
def test_other_amounts_are_refused(text):
    with pytest.raises(InputError, match=r"is not a size\. Write a share such as 25%, or an amount such as 40MB"):
        parse_amount(text, 1000, {"MB": 1e6}, "size")
