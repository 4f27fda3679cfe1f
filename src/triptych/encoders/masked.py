"""Sequences with padding: which tokens are real, and averages over those alone."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, ones_like


class Masked(NamedTuple):
    """A batch of feature maps and its mask, "batch tokens", or None where nothing can be padding (pictures, sound).

    One record rather than two arguments, so that a residual block may be dropped by putting a plain `nn.Identity` in
    its place.
    """

    x: Tensor
    mask: Tensor | None = None


def any_or_all(mask: Bool[Tensor, "batch items"]) -> Bool[Tensor, "batch items"]:
    """The mask, but all True in rows that are all False: an average over nothing has no value."""
    return mask | ~mask.any(dim=1, keepdim=True)


def real_tokens(ids: Int[Tensor, "batch tokens"]) -> Bool[Tensor, "batch tokens"]:
    """True where a token is real (its id is not 0); an empty text counts as all real."""
    return any_or_all(ids != 0)


def all_real(tokens: Float[Tensor, "batch tokens width"]) -> Bool[Tensor, "batch tokens"]:
    """The mask of tokens none of which is padding."""
    return ones_like(tokens[:, :, 0]).bool()


def masked_mean(
    x: Float[Tensor, "batch items width"], mask: Bool[Tensor, "batch items"] | None
) -> Float[Tensor, "batch width"]:
    """The mean over the items whose mask is True, of which every row must have one; over all items without a mask."""
    if mask is None:
        return x.mean(dim=1)
    counted = mask.unsqueeze(-1).to(x.dtype)
    return (x * counted).sum(dim=1) / counted.sum(dim=1)
