"""Scale migration: what is hard to round moves between a layer's inputs and its weights, at no cost when the model runs.

With any positive s, W x = (W diag s)(x / s): columns of the weight are multiplied, and whatever made x (a norm, a linear
layer) is divided once and for all. AWQ (Lin et al., arXiv 2306.00978) grows the columns that large inputs meet, so
that rounding hurts them less; SmoothQuant (Xiao et al., arXiv 2211.10438) does the same to take outliers out of inputs
that are rounded themselves. The other way round it plants outliers that leave the function as it is, to test methods on.

Every layer that reads x has to be among the consumers: only the caller can know that.
"""

import copy
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.compress.quantize import rtn
from triptych.compress.quantize.grid import Codes, Grid
from triptych.errors import InputError

STEPS = 20  # exponents that AWQ tries: 0, 1/20, ..., 19/20
TOLERANCE = 1e-5  # norms compute in float32 whatever they are given


@runtime_checkable
class Quantizer(Protocol):
    """What the registry files under "quantizer"."""

    def __call__(self, weight: Tensor, moment: Tensor | None, grid: Grid) -> Codes:
        """Codes of a matrix."""
        ...


def awq_scales(
    weights: Sequence[Float[Tensor, "_ _"]],
    moment: Float[Tensor, "columns columns"],
    grid: Grid,
    *,
    mean_abs: Float[Tensor, " columns"] | None = None,
    rows: int | None = 256,
    quantizer: Quantizer = rtn.quantize,
) -> Float[Tensor, " columns"]:
    """Scales s = E|x|^a, brought to sqrt(max s * min s) = 1, with the a that costs the consumers' outputs least.

    The cost is sum tr(D H D') over all consumers, D = W - Q(W diag s) diag(1 / s), with Q what will round them: the
    clipping that AWQ searches afterwards is in Q's own search of scales. a = 0, which changes nothing, is among those
    tried.

    Args:
        weights: of all layers that read x.
        moment: H = E[x x'].
        grid: the levels.
        mean_abs: E|x|; by default sqrt(diag H).
        rows: of each weight that are rounded to learn a, evenly spaced; None for all. Rows are many and alike.
        quantizer: Q.

    Raises:
        InputError: weights and moment differ in size.
    """
    columns = len(moment)
    _check_sizes([weight.shape[1] for weight in weights], columns)
    size = moment.diagonal().clamp(min=0).sqrt() if mean_abs is None else mean_abs
    size = size.to(torch.float32).clamp(min=1e-4 * float(size.max().clamp(min=torch.finfo(torch.float32).tiny)))
    samples = [_spaced(weight.detach().to(torch.float32), rows) for weight in weights]
    H = moment.to(torch.float32)
    best, found = torch.inf, torch.ones_like(size)
    for step in range(STEPS):
        s = size ** (step / STEPS)
        s = s / (s.max() * s.min()).sqrt()
        cost = 0.0
        for weight, share in zip(samples, (len(w) for w in weights), strict=True):
            restored = quantizer(weight * s, H / (s[:, None] * s), grid).dequantize() / s
            change = weight - restored
            cost += float(((change @ H) * change).sum()) * share / max(1, len(weight))
        if cost < best:
            best, found = cost, s
    return found


def smoothquant_scales(
    weights: Sequence[Float[Tensor, "_ _"]], max_abs: Float[Tensor, " columns"], alpha: float = 0.5
) -> Float[Tensor, " columns"]:
    """Scales s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), so that inputs and weights share the outliers; 1 where either is 0.

    Args:
        weights: of all layers that read x.
        max_abs: max|x_j| over the calibration.
        alpha: how much of an outlier goes to the weights.

    Raises:
        InputError: weights and maxima differ in size.
    """
    _check_sizes([weight.shape[1] for weight in weights], len(max_abs))
    x = max_abs.to(torch.float32)
    w = torch.stack([weight.detach().to(torch.float32).abs().amax(0) for weight in weights]).amax(0)
    tiny = torch.finfo(torch.float32).tiny
    s = x.clamp(min=tiny) ** alpha / w.clamp(min=tiny) ** (1 - alpha)
    return torch.where((x > tiny) & (w > tiny), s.clamp(1e-5, 1e5), torch.ones_like(s))


def fold(
    producer: nn.Module,
    consumers: Sequence[nn.Linear],
    s: Float[Tensor, " columns"],
    probe: Float[Tensor, "*batch features"] | None = None,
) -> None:
    """Divides what a producer makes by s and multiplies the consumers' columns by it, in place.

    Whether a norm multiplies by its weight or by one plus it (Gemma) is found by running producer and consumers on a
    probe, as float64 copies, before and after; nothing is changed unless their outputs stayed.

    Args:
        producer: a nn.Linear, or a norm with a one-dimensional `weight` and perhaps a `bias`.
        consumers: all layers that read its output.
        s: the scales, above zero.
        probe: inputs of the producer; random ones by default.

    Raises:
        InputError: sizes differ, s is not positive, the producer is of another kind, or the outputs moved.
    """
    weight, kind = getattr(producer, "weight", None), type(producer).__name__
    if not isinstance(weight, Tensor) or weight.dim() != (2 if isinstance(producer, nn.Linear) else 1):
        raise InputError(
            f"No scale can be folded into a {kind}.", "Give a nn.Linear or a norm with one weight a channel."
        )
    _check_sizes([len(weight), *(layer.in_features for layer in consumers)], len(s))
    if not bool((s.isfinite() & (s > 0)).all()):
        raise InputError("Scales to fold must be finite and above zero.")
    if probe is None:
        probe = torch.randn(8, weight.shape[-1], generator=torch.Generator().manual_seed(0))
    x = probe.detach().to(weight.device, torch.float64)
    with torch.no_grad():
        for added in (0.0,) if isinstance(producer, nn.Linear) else (0.0, 1.0):
            maker = copy.deepcopy(producer).to(torch.float64)
            readers = [copy.deepcopy(consumer).to(torch.float64) for consumer in consumers]
            before = [reader(maker(x)) for reader in readers]
            _scale(maker, readers, s, added)
            after = [reader(maker(x)) for reader in readers]
            if all(
                float((a - b).abs().max()) <= TOLERANCE * float(b.abs().max())
                for a, b in zip(after, before, strict=True)
            ):
                _scale(producer, consumers, s, added)
                return
    raise InputError(
        f"Folding scales into this {kind} changes what its consumers compute, so it was left as it was.",
        "Leave this pair out of the migration.",
    )


def injected_outliers(
    producer: nn.Module, consumers: Sequence[nn.Linear], channels: Sequence[int], factor: float
) -> Float[Tensor, " columns"]:
    """Makes some channels of a producer's output `factor` times as large, in place, and leaves the function as it was.

    Large models have such channels; planted in a small one they show what a method does about them.

    Returns:
        The scales that were folded: 1 / factor on the channels.

    Raises:
        InputError: as `fold`, or a channel that does not exist.
    """
    columns = consumers[0].in_features if consumers else 0
    wrong = [channel for channel in channels if not 0 <= channel < columns]
    if wrong:
        raise InputError(f"There is no channel {wrong[0]} among {columns}.")
    s = torch.ones(columns)
    s[list(channels)] = 1 / factor
    fold(producer, consumers, s)
    return s


def _scale(producer: nn.Module, consumers: Sequence[nn.Linear], s: Tensor, added: float) -> None:
    """The fold itself, where the producer multiplies by its weight plus `added`; computed in float64."""
    with torch.no_grad():
        for name, parameter in producer.named_parameters(recurse=False):
            plus = added if name == "weight" else 0.0
            by = s.to(parameter.device, torch.float64).reshape(-1, *[1] * (parameter.dim() - 1))
            parameter.copy_((parameter.to(torch.float64) + plus) / by - plus)
        for consumer in consumers:
            consumer.weight.copy_(consumer.weight.to(torch.float64) * s.to(consumer.weight.device, torch.float64))


def _check_sizes(sizes: Sequence[int], columns: int) -> None:
    wrong = [size for size in sizes if size != columns]
    if wrong:
        raise InputError(
            f"Scales of {columns} channels do not fit a layer of {wrong[0]}.",
            "All consumers must read the producer's output itself.",
        )


def _spaced(weight: Float[Tensor, "rows columns"], rows: int | None) -> Float[Tensor, "some columns"]:
    """At most so many rows, evenly spaced."""
    if rows is None or len(weight) <= rows:
        return weight
    return weight[torch.linspace(0, len(weight) - 1, rows, device=weight.device).round().long()]
