"""Scale migration: what is hard to round moves between a layer's inputs and its weights, at no cost when the model runs.

With any positive s, W x = (W diag s)(x / s): columns of the weight are multiplied, and whatever made x (a norm, a linear
layer) is divided once and for all. AWQ (Lin et al., arXiv 2306.00978) grows the columns that large inputs meet, so
that rounding hurts them less; SmoothQuant (Xiao et al., arXiv 2211.10438) does the same to take outliers out of inputs
that are rounded themselves. The other way round it plants outliers that leave the function as it is, to test methods on.

Every layer that reads x has to be among the consumers: only the caller can know that.
"""

import copy
from collections.abc import Mapping, Sequence
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

    Args:
        producer: a nn.Linear, or a norm with a one-dimensional `weight` and perhaps a `bias`.
        consumers: all layers that read its output.
        s: the scales, above zero.
        probe: inputs of the producer; random ones by default.

    Raises:
        InputError: as `divided`, or a consumer of another size.
    """
    made = divided(producer, s, probe)
    _check_sizes([layer.in_features for layer in consumers], len(s))
    with torch.no_grad():
        for name, parameter in made.items():
            producer.get_parameter(name).copy_(parameter)
        for consumer in consumers:
            consumer.weight.copy_(consumer.weight.to(torch.float64) * s.to(consumer.weight.device, torch.float64))


def divided(
    producer: nn.Module, s: Float[Tensor, " columns"], probe: Float[Tensor, "*batch features"] | None = None
) -> dict[str, Tensor]:
    """The parameters, in float64, with which a producer makes 1 / s of what it makes now; arguments as of `fold`.

    Raises:
        InputError: sizes differ, s is not positive, or the producer does not make twice as much of doubled parameters.
    """
    weight, kind = getattr(producer, "weight", None), type(producer).__name__
    if not isinstance(weight, Tensor) or weight.dim() != (2 if isinstance(producer, nn.Linear) else 1):
        raise InputError(
            f"No scale can be folded into a {kind}.", "Give a nn.Linear or a norm with one weight a channel."
        )
    _check_sizes([len(weight)], len(s))
    if not bool((s.isfinite() & (s > 0)).all()):
        raise InputError("Scales to fold must be finite and above zero.")
    return _scaled(producer, 1 / s.to(weight.device, torch.float64), _offset(producer, probe))


def ratio(producer: nn.Module, made: Mapping[str, Tensor]) -> Float[Tensor, " columns"]:
    """S of `divided` for a norm, as the type that its new weight is stored in left it: what its consumers are to be given.

    Two bytes cannot hold every folded weight; the consumers, which are rounded anyway, make up for what that changed.
    Channels that the norm silences keep 1.
    """
    offset = _offset(producer)
    before = producer.get_parameter("weight").detach().to(torch.float64) + offset
    after = made["weight"].to(torch.float64) + offset
    live = (before != 0) & (after != 0)
    return torch.where(live, before / torch.where(live, after, 1.0), 1.0).to(torch.float32)


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


def _offset(producer: nn.Module, probe: Float[Tensor, "*batch features"] | None = None) -> float:
    """0 where a producer multiplies by its weight, 1 where by one plus it (Gemma): found by doubling what it makes."""
    maker = copy.deepcopy(producer).to(torch.float64)
    weight = maker.get_parameter("weight")
    if probe is None:
        probe = torch.randn(8, weight.shape[-1], generator=torch.Generator().manual_seed(0))
    x, two = probe.detach().to(weight.device, torch.float64), torch.full((len(weight),), 2.0, dtype=torch.float64)
    with torch.no_grad():
        wanted = 2 * maker(x)
        for offset in (0.0,) if isinstance(producer, nn.Linear) else (0.0, 1.0):
            trial = copy.deepcopy(maker)
            for name, parameter in _scaled(maker, two.to(weight.device), offset).items():
                trial.get_parameter(name).copy_(parameter)
            if float((trial(x) - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max()):
                return offset
    raise InputError(
        f"Folding scales into this {type(producer).__name__} changes what its consumers compute, so it was left as it was.",
        "Leave this pair out of the migration.",
    )


def _scaled(producer: nn.Module, by: Tensor, offset: float) -> dict[str, Tensor]:
    """A producer's parameters in float64 times `by`, a channel, where it multiplies by its weight plus `offset`."""
    made = {}
    for name, parameter in producer.named_parameters(recurse=False):
        plus = offset if name == "weight" else 0.0
        channels = by.reshape(-1, *[1] * (parameter.dim() - 1))
        made[name] = (parameter.detach().to(torch.float64) + plus) * channels - plus
    return made


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
