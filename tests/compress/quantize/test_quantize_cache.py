"""Scales of eight-bit caches."""

import pytest
import torch

from triptych.compress.quantize.cache import cache_scales, cached, widest
from triptych.errors import InputError, NumericsError


def seen(seed, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 5, 8, generator=generator) * size, torch.randn(2, 3, 5, 8, generator=generator)


@pytest.mark.parametrize(("kind", "top", "worst"), [("int8", 127, 0.5 / 127), ("fp8", 448, 1 / 16)])
def test_the_largest_magnitude_is_the_largest_number(kind, top, worst):
    keys, values = seen(0, 5.0)
    scales = cache_scales({"layers.0.self_attn": (keys, values)}, kind)
    assert list(scales) == ["layers.0.self_attn.k_scale", "layers.0.self_attn.v_scale"]
    for tensor, scale in zip((keys, values), scales.values(), strict=True):
        assert scale.shape == (1,)
        assert scale.item() * top == pytest.approx(tensor.abs().max().item())
        back = cached(tensor, scale, kind)
        assert (back - tensor).abs().max() <= worst * tensor.abs().max() * 1.0001
        assert not torch.equal(back, tensor)
        torch.testing.assert_close(cached(10 * tensor, scale, kind).abs().max(), tensor.abs().max())  # clipped, not NaN
        assert torch.equal(cached(back, scale, kind), back)


def test_batches_are_joined_by_their_widest():
    first, second = (cache_scales({"a": seen(seed), f"only{seed}": seen(seed)}) for seed in (1, 2))
    both = widest(first, second)
    assert set(both) == {f"{name}.{x}_scale" for name in ("a", "only1", "only2") for x in "kv"}
    assert both["a.k_scale"] == max(first["a.k_scale"], second["a.k_scale"])
    assert both["only2.v_scale"] == second["only2.v_scale"]


def test_zeros_nothing_and_nan():
    zeros = torch.zeros(2, 3)
    assert cached(zeros, cache_scales({"a": (zeros, zeros)})["a.k_scale"]).eq(0).all()
    with pytest.raises(InputError, match="a showed no values"):
        cache_scales({"a": (zeros, torch.empty(0))})
    with pytest.raises(NumericsError, match="The keys of a hold NaN"):
        cache_scales({"a": (zeros / 0, zeros)})
