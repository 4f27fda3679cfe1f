"""Activation ranges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from triptych.compress.quantize.activation import Range, fake_quantize, observe
from triptych.errors import NumericsError

ends = st.floats(0, 1e4, width=32)


@given(ends, ends)
def test_zero_is_a_level_and_the_step_names_the_range(low, high):
    span = Range(low=-low, high=high)
    assert fake_quantize(torch.zeros(1), span).item() == 0
    again = Range.of(span.scale, span.zero)
    assert (again.scale, again.zero) == (span.scale, span.zero)
    if max(low, high) > 1e-30:
        assert span.bounds[0] == pytest.approx(-low, abs=span.scale * 0.51)
        assert span.bounds[1] == pytest.approx(high, abs=span.scale * 0.51)


@given(ends, ends, st.integers(0, 1000))
def test_rounding_is_to_the_nearest_level(low, high, seed):
    span = Range(low=-low, high=high)
    x = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * (high + low) / 2
    levels = (torch.arange(256) - span.zero) * span.scale
    distance = (x[:, None] - levels).abs().amin(1)
    assert ((fake_quantize(x, span) - x).abs() <= distance * 1.001 + 1e-5 * span.scale).all()


def test_gradients_pass_inside_the_range():
    x = torch.tensor([-3.0, 0.3, 5.0], requires_grad=True)
    fake_quantize(x, Range(low=-1, high=1)).sum().backward()
    assert x.grad.tolist() == [0, 1, 0]


def test_searches():
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).relu()
    x[7] = 100.0  # an outlier
    ranges = {search: observe(x, search) for search in ("minmax", "percentile", "mse")}
    assert ranges["minmax"].high == 100
    assert all(span.low == 0 for span in ranges.values())
    assert ranges["percentile"].high < 5
    errors = {name: (fake_quantize(x, span) - x).square().sum().item() for name, span in ranges.items()}
    assert errors["mse"] <= min(errors.values())


def test_both_tails_are_searched():
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    x[0], x[1] = -30.0, 9.0
    span = observe(x, "mse")
    assert -30 < span.low < -3
    assert 3 < span.high <= 9


def test_nothing_seen_and_nothing_but_zeros():
    for samples in (torch.empty(0), torch.zeros(5)):
        span = observe(samples)
        assert fake_quantize(torch.zeros(3), span).eq(0).all()


def test_bad_ranges_are_refused():
    with pytest.raises(NumericsError, match="NaN or infinity"):
        observe(torch.tensor([1.0, torch.nan]))
    with pytest.raises(ValidationError, match=r"must be finite and hold zero, not 1\.0 to 2\.0"):
        Range(low=1, high=2)
