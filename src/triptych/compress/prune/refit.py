"""Least-squares repair of the layer that reads a pruned width.

A consumer y = W x + b loses the inputs P and keeps S. The best it can still say of y from x_S, over the calibration
samples, is

    W' = W_S + W_P C_PS (C_SS + lambda I)^-1,      b' = b + W mu - W' mu_S

where C = H - mu mu^T is the covariance of the inputs, H = E[x x^T] and mu = E[x]. Without means (or without a bias to
put them in) C is H itself and b stays. At lambda = 0 this is W' = W C_{:,S} C_SS^-1, the Optimal Brain Surgeon update
for a whole group (ZipLM, Kurtic et al., NeurIPS 2023); with W' = W_S the bias is that of FLAP (An et al., AAAI 2024).
The damping pulls towards plain removal rather than towards zero, so that W comes back unchanged where nothing is
removed or nothing is known.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from triptych.compress.prune.width import check_keep, check_member, positions, shrink, tensor_of
from triptych.errors import InputError, NumericsError
from triptych.structure import Member, Width


class Refit(NamedTuple):
    """The repaired layer, float64: weight [rows, kept], bias [rows] or None, and what error is left.

    `error` is E||y - y'||^2 / E||y||^2 over the calibration samples, with y without its bias (the variance of y where
    means are given).
    """

    weight: Float[Tensor, "rows kept"]
    bias: Float[Tensor, "rows"] | None
    error: float


def refitted(
    weight: Float[Tensor, "rows columns"],
    moments: Float[Tensor, "columns columns"],
    keep: Int64[Tensor, "kept"],
    *,
    bias: Float[Tensor, "rows"] | None = None,
    means: Float[Tensor, "columns"] | None = None,
    damping: float = 0.01,
) -> Refit:
    """The weight and bias that reproduce the layer best from the kept columns.

    Args:
        weight: W, as a matrix.
        moments: H = E[x x^T] of the inputs before removal.
        keep: columns that stay.
        bias: b; where there is none, `means` are not used.
        means: E[x]; None leaves the bias as it is.
        damping: lambda as a share of the mean variance of the kept inputs.

    Raises:
        NumericsError: the moments are not finite, or not those of any samples.
    """
    W, C = weight.detach().double(), moments.detach().to(weight.device, torch.float64)
    if not bool(torch.isfinite(C).all()):
        raise NumericsError("The second moments of a layer's inputs are not finite.", "Check the calibration samples.")
    mu = None if bias is None or means is None else means.detach().to(W)
    if mu is not None:
        C = C - torch.outer(mu, mu)
    keep = keep.to(W.device)
    removed = torch.ones(W.shape[1], dtype=torch.bool, device=W.device)
    removed[keep] = False
    update = W[:, removed] @ _damped_solve(C[keep][:, keep], C[keep][:, removed], damping).T
    refitted = W[:, keep] + update
    change = W.clone()
    change[:, keep] -= refitted
    energy = float(((W @ C) * W).sum())
    error = float(((change @ C) * change).sum()) / energy if energy > 0 else 0.0
    if bias is None or mu is None:
        return Refit(refitted, None if bias is None else bias.detach().double(), max(0.0, error))
    return Refit(refitted, bias.detach().double() + change @ mu, max(0.0, error))


def shrink_and_refit(
    model: nn.Module,
    width: Width,
    keep: Int64[Tensor, "kept"],
    moments: Mapping[str, Float[Tensor, "..."]],
    means: Mapping[str, Float[Tensor, "..."]] | None = None,
    *,
    damping: float = 0.01,
) -> dict[str, float]:
    """`width.shrink`, after every consumer with known moments has been repaired; in place.

    Args:
        model: the model to which the width's names are relative.
        width: the width that is narrowed.
        keep: the units that stay, ascending.
        moments: H by name of the consumer's weight, [columns, columns] over the columns of the weight as a matrix
            (convolution: in * kh * kw, unfolded; grouped: [groups, columns, columns]).
        means: E[x] by the same names, [columns] or [groups, columns].
        damping: as in `refitted`.

    Returns:
        relative output error by name of the repaired weight.

    Raises:
        InputError: moments of another size, or of a weight that is not multiplied with its input.
    """
    check_keep(width, keep)
    errors = {}
    for member in width.consumers:
        if member.parameter in moments:
            tensor = tensor_of(model, member.parameter)
            check_member(width, member, tensor)
            mu = None if means is None else means.get(member.parameter)
            units = positions(member, width.units, keep)
            errors[member.parameter] = _repair(model, member, units, moments[member.parameter], mu, damping=damping)
    shrink(model, width, keep)
    return errors


@torch.no_grad()
def _repair(
    model: nn.Module,
    member: Member,
    inputs: Int64[Tensor, "inputs"],
    moments: Float[Tensor, "..."],
    means: Float[Tensor, "..."] | None,
    *,
    damping: float,
) -> float:
    """Write the repaired weight into the columns that will stay; the others are about to go."""
    name = member.parameter
    path, _, leaf = name.rpartition(".")
    layer, weight = model.get_submodule(path), tensor_of(model, name)
    linear = isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.RNNBase)
    if not linear or member.axis % weight.dim() != 1:
        raise InputError(f"{name!r} does not multiply its input, so it cannot be refitted.", "Give no moments for it.")
    groups = int(getattr(layer, "groups", 1))
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)  # [groups, rows, columns]
    columns = matrix.shape[2]
    moments = moments.reshape(-1, *moments.shape[-2:])
    if moments.shape != (groups, columns, columns):
        raise InputError(
            f"The moments of {name!r} are {tuple(moments.shape)} where {(groups, columns, columns)} are needed.",
            "Collect them again; they are of the model before this width is pruned.",
        )
    means = None if means is None else means.reshape(groups, columns)
    patch = columns // weight.shape[1]  # columns that belong to one input channel: the kernel's pixels
    keep = (inputs[:, None] * patch + torch.arange(patch, device=inputs.device)).flatten().to(weight.device)
    bias = getattr(layer, leaf.replace("weight", "bias"), None)
    lost = torch.zeros(groups)
    for g in range(groups):
        rows = slice(g * matrix.shape[1], (g + 1) * matrix.shape[1])
        found = refitted(
            matrix[g],
            moments[g],
            keep,
            bias=bias[rows] if isinstance(bias, Tensor) else None,
            means=None if means is None else means[g],
            damping=damping,
        )
        matrix[g, :, keep] = found.weight.to(matrix.dtype)
        if isinstance(bias, Tensor) and found.bias is not None:
            bias[rows] = found.bias.to(bias.dtype)
        lost[g] = found.error
    weight.copy_(matrix.reshape(weight.shape))
    return float(lost.mean())


def _damped_solve(
    C: Float[Tensor, "kept kept"], target: Float[Tensor, "kept removed"], damping: float
) -> Float[Tensor, "kept removed"]:
    """(C + lambda I)^-1 target, with ever more damping where C is singular."""
    scale = float(C.diagonal().mean()) or 1.0
    identity = torch.eye(len(C), dtype=C.dtype, device=C.device)
    for extra in (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0):
        factor, failed = torch.linalg.cholesky_ex(C + (damping + extra) * scale * identity)
        if int(failed) == 0:
            return torch.cholesky_solve(target, factor)
    raise NumericsError(
        "The second moments of a layer's inputs are not positive.",
        "They must be E[x x^T] of the same samples as the means.",
    )
