"""Scales for a cache of keys and values in eight bits: half the memory a token, and half of what decoding reads.

One symmetric scale for all keys of a layer and one for all its values, as vLLM and compressed-tensors know them:
`<attention>.k_scale` and `<attention>.v_scale`, float32 [1], restored = stored * scale. A cache is written as it comes and
cannot be looked through first, so the scales are those of the largest magnitudes that calibration saw; what is larger
later is clipped. Keys are meant after their rotary embedding, which is how they are stored.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.compress.quantize.float8 import TOP
from triptych.errors import InputError, NumericsError

Format = Literal["int8", "fp8"]


def cache_scales(
    observed: Mapping[str, tuple[Float[Tensor, "*keys"], Float[Tensor, "*values"]]], kind: Format = "fp8"
) -> dict[str, Float[Tensor, "1"]]:
    """`<attention>.k_scale` and `<attention>.v_scale` of every attention layer whose keys and values were seen.

    Several batches are joined with `widest`.

    Args:
        observed: keys and values by the name of their attention module, of any shape.
        kind: the numbers that the cache will hold.

    Raises:
        InputError: a layer without any keys or values.
        NumericsError: keys or values that hold NaN or infinity.
    """
    scales = {}
    for layer, pair in observed.items():
        for letter, tensor in zip("kv", pair, strict=True):
            word = {"k": "keys", "v": "values"}[letter]
            if tensor.numel() == 0:
                raise InputError(f"{layer} showed no {word}.", "Calibrate with at least one token.")
            largest = tensor.detach().abs().amax().to(torch.float32)
            if not bool(largest.isfinite()):
                raise NumericsError(f"The {word} of {layer} hold NaN or infinity.", "Find the layer that makes them.")
            step = largest / _top(kind)
            tiny = step < torch.finfo(torch.float32).tiny
            scales[f"{layer}.{letter}_scale".lstrip(".")] = torch.where(tiny, torch.ones_like(step), step).reshape(1)
    return scales


def widest(
    first: Mapping[str, Float[Tensor, "1"]], second: Mapping[str, Float[Tensor, "1"]]
) -> dict[str, Float[Tensor, "1"]]:
    """The larger of two batches' scales, name by name; a name that one of them lacks is kept."""
    return {
        name: torch.maximum(first[name], second[name])
        if name in first and name in second
        else {**first, **second}[name]
        for name in {**first, **second}
    }


def cached(x: Float[Tensor, "*shape"], scale: Float[Tensor, "1"], kind: Format = "fp8") -> Float[Tensor, "*shape"]:
    """What a cache gives back of keys or values that were written to it."""
    top = _top(kind)
    stored = (x / scale).clamp_(-top, top)
    stored = stored.round_() if kind == "int8" else stored.to(torch.float8_e4m3fn).to(x.dtype)
    return (stored * scale).to(x.dtype)


def _top(kind: Format) -> float:
    return 127.0 if kind == "int8" else TOP
