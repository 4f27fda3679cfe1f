"""Magnitude pruning of single weights, and a storage in which their absence saves bytes.

Han et al., "Learning both Weights and Connections", NeurIPS 2015. A zero in a dense tensor takes as many bytes as any
other number and as long to multiply: pruned weights save bytes only in a sparse (or entropy-coded) file, here one bit a
weight plus the values that are left, and time only in kernels made for it. To be faster, prune widths or blocks.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Shaped, UInt8
from torch import Tensor, nn

from triptych.compress.prune.width import tensor_of
from triptych.errors import ArtifactError, InputError


class Masks:
    """Which weights of a model stay, by name; True stays.

    Fine-tuning keeps a pruned model pruned by calling `apply_` after each step of the optimiser.
    """

    def __init__(self, masks: Mapping[str, Bool[Tensor, "..."]]) -> None:
        self.masks = dict(masks)

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Zero the pruned weights of the model, in place.

        Raises:
            InputError: the model has no such weight, or one of another shape.
        """
        for name, mask in self.masks.items():
            weight = tensor_of(model, name)
            if weight.shape != mask.shape:
                raise InputError(
                    f"The mask of {name!r} has shape {tuple(mask.shape)}, the weight {tuple(weight.shape)}.",
                    "Prune widths before single weights.",
                )
            weight.masked_fill_(~mask.to(weight.device), 0)

    @property
    def sparsity(self) -> float:
        """Share of the masked weights that are pruned."""
        total = sum(mask.numel() for mask in self.masks.values())
        return 1 - sum(int(mask.sum()) for mask in self.masks.values()) / total if total else 0.0


def magnitude_masks(
    model: nn.Module, names: Sequence[str], sparsity: float, scope: Literal["global", "layer"] = "layer"
) -> Masks:
    """Masks that remove the smallest weights; the model is left as it is until `Masks.apply_`.

    Args:
        model: the model.
        names: the weights to prune, by full name.
        sparsity: share of the weights to remove, from 0 to below 1; met to the nearest weight.
        scope: the smallest of each tensor, or the smallest of all tensors together.

    Raises:
        InputError: a sparsity out of range, an unknown name, or a tensor that would lose all its weights.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"A sparsity of {sparsity:g} is not a share of weights.", "Give 0 or more, and less than 1.")
    sizes = {name: tensor_of(model, name).detach().abs() for name in names}
    if scope == "layer":
        masks = {name: _largest(size, sparsity) for name, size in sizes.items()}
    else:
        everything = torch.cat([size.flatten().float() for size in sizes.values()] or [torch.zeros(0)])
        parts = _largest(everything, sparsity).split([size.numel() for size in sizes.values()])
        masks = {name: part.view(sizes[name].shape) for name, part in zip(names, parts, strict=True)}
    for name, mask in masks.items():
        if not bool(mask.any()):
            raise InputError(
                f"A sparsity of {sparsity:g} would remove every weight of {name!r}.",
                'Lower it, or choose scope="layer".',
            )
    return Masks(masks)


class Sparse(NamedTuple):
    """A tensor as one bit per entry and the entries that are not zero."""

    shape: tuple[int, ...]
    bits: UInt8[Tensor, "bytes"]  # entry i is not zero when bit i % 8 (least significant first) of byte i // 8 is set
    values: Shaped[Tensor, "entries"]

    @property
    def nbytes(self) -> int:
        """Bytes of bits and values; fewer than dense when more than 1 in b weights is zero, for numbers of b bits."""
        return self.bits.nbytes + self.values.nbytes


def to_sparse(tensor: Shaped[Tensor, "..."]) -> Sparse:
    """The compact form of a tensor; only the sign of zeros is lost."""
    flat = tensor.detach().flatten()
    there = flat != 0
    padded = torch.zeros(-(-flat.numel() // 8) * 8, dtype=torch.uint8, device=flat.device)
    padded[: flat.numel()] = there
    return Sparse(tuple(tensor.shape), (padded.view(-1, 8) << _order(flat)).sum(1, dtype=torch.uint8), flat[there])


def from_sparse(sparse: Sparse, name: str = "a sparse tensor") -> Shaped[Tensor, "..."]:
    """The dense tensor again.

    Args:
        sparse: what `to_sparse` made.
        name: what messages call it.

    Raises:
        ArtifactError: bits, values and shape contradict each other.
    """
    entries = torch.Size(sparse.shape).numel()
    there = ((sparse.bits[:, None] >> _order(sparse.bits)) & 1).bool().flatten()
    fits = len(sparse.bits) == -(-entries // 8) and not bool(there[entries:].any())
    if not fits or int(there.sum()) != len(sparse.values):
        raise ArtifactError(
            f"The bits of {name} do not match its {len(sparse.values)} values and its shape {sparse.shape}.",
            "The file is damaged; make it again.",
        )
    flat = sparse.values.new_zeros(entries)
    flat[there[:entries]] = sparse.values
    return flat.view(sparse.shape)


def _order(like: Tensor) -> UInt8[Tensor, "8"]:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def _largest(sizes: Shaped[Tensor, "..."], sparsity: float) -> Bool[Tensor, "..."]:
    """True for all but the smallest share; of equals the first go, so that the count is exact."""
    flat = sizes.flatten() if sizes.dtype == torch.float64 else sizes.flatten().float()
    count = round(sparsity * flat.numel())
    if count == 0:
        return torch.ones_like(sizes, dtype=torch.bool)
    threshold = flat.kthvalue(count).values
    keep = flat > threshold
    equal = (flat == threshold).nonzero().flatten()
    keep[equal[count - int((flat < threshold).sum()) :]] = True
    return keep.view(sizes.shape)
