"""Scale migration in the driver: what a group of layers reads is divided, their columns are multiplied, before rounding.

At a group's stop the norm's outputs wait for the layers that alone read them (`models.readers`), so dividing the waiting
tensors in place is what the folded norm would have brought. From then on the group's weights are those with multiplied
columns, wherever they are read; the norm itself is changed when all samples are through, and stored beside the codes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.compress.journal import Finished
from triptych.compress.lockstep import Stop
from triptych.compress.quantize import gptq
from triptych.compress.quantize.grid import Grid, output_error
from triptych.compress.quantize.layers import LayerScheme
from triptych.compress.quantize.migrate import awq_scales, divided, ratio, smoothquant_scales
from triptych.models.stream import Stream, WeightsOnDisk
from triptych.models.tensors import Entry

Kind = Literal["awq", "smooth", "both"]
ROWS = 256  # of each weight, from which scales are learned


@dataclass(frozen=True)
class Migration:
    """What migrates where.

    Attributes:
        kind: "awq" where weights alone are rounded, "smooth" where inputs are rounded too, or both.
        norms: the norm whose output a group of layers alone reads, by the names of the group's weights.
    """

    kind: Kind
    norms: Mapping[frozenset[str], str] = field(default_factory=dict)

    def norm_of(self, schemes: Mapping[str, LayerScheme]) -> str | None:
        """The norm to fold into for weights that are rounded so, or None."""
        if any(scheme.weight is None or scheme.weight.number == "float" for scheme in schemes.values()):
            return None  # steps of FP8 grow with the number: there is nothing to gain
        rounded = {scheme.activation is not None for scheme in schemes.values()}
        wanted = {"awq": {False}, "smooth": {True}, "both": rounded}[self.kind]
        return self.norms.get(frozenset(schemes)) if len(rounded) == 1 and rounded == wanted else None


def migrate(
    stream: Stream,
    norm: str,
    schemes: Mapping[str, LayerScheme],
    stops: tuple[Stop, ...],
    moment: Callable[[], Tensor],
    into: Finished,
) -> None:
    """Divide the waiting inputs of a group, and have its weights read with multiplied columns.

    Args:
        stream: the model.
        norm: that made the inputs.
        schemes: of the group's weights, by name.
        stops: of the model that is rounded, then perhaps of the original beside it.
        moment: E[x x'] of the inputs.
        into: the block; a norm that an earlier run folded is found here, else it is put here.
    """
    producer = stream.model.get_submodule(norm)
    if isinstance(stream.weights, Scaled):  # of a walk that was given up
        stream.weights.columns = {n: s for n, s in stream.weights.columns.items() if n not in schemes}
    names = {name: f"{norm}.{name}" for name, _ in producer.named_parameters()}
    if not into.dense.keys() >= set(names.values()):
        s = _scales(stream, schemes, stops[0], moment)
        for name, parameter in divided(producer, s).items():
            entry = stream.weights.entry(names[name])
            into.dense[names[name]] = parameter.to(stream.weights.dtype if entry is None else entry.dtype)
    s = ratio(producer, {name: into.dense[whole] for name, whole in names.items()})
    for stop in stops:
        for x in stop.inputs.values():
            x.div_(s)
    if not isinstance(stream.weights, Scaled):
        stream.weights = Scaled(stream.weights)
    stream.weights.columns |= dict.fromkeys(schemes, s)


def fold(model: nn.Module, dense: Mapping[str, Tensor]) -> None:
    """Put folded parameters into the model, once no sample is under way in it."""
    for name, tensor in dense.items():
        parameter = model.get_parameter(name)
        parameter.data = tensor.to(parameter.dtype)


def moved(model: nn.Module, stream: Stream, dense: Mapping[str, Tensor]) -> None:
    """Move a model in memory as the stream's was moved: from then on it is what the codes are near to."""
    fold(model, dense)
    if isinstance(stream.weights, Scaled):
        for name, s in stream.weights.columns.items():
            model.get_parameter(name).data.mul_(s)


def _scales(
    stream: Stream, schemes: Mapping[str, LayerScheme], stop: Stop, moment: Callable[[], Tensor]
) -> Float[Tensor, " columns"]:
    """AWQ's scales where weights alone are rounded, SmoothQuant's where inputs are rounded too."""
    counts = {name: stream.model_shape(name)[0] for name in schemes}
    some = [stream.weights.rows(n, torch.linspace(0, c - 1, min(c, ROWS)).round().long()) for n, c in counts.items()]
    scheme = next(iter(schemes.values()))
    if scheme.activation is not None:
        largest = torch.stack([x.abs().flatten(0, -2).amax(0) for x in stop.inputs.values()]).amax(0)
        return smoothquant_scales(some, largest)
    assert scheme.weight is not None
    H, rows = moment(), torch.cat(some)
    s = awq_scales(some, H, scheme.weight, rows=None)
    moved = _lost(rows * s, H / (s[:, None] * s), scheme.weight)
    return s if moved < _lost(rows, H, scheme.weight) else torch.ones_like(s)


def _lost(rows: Float[Tensor, "rows columns"], H: Float[Tensor, "columns columns"], grid: Grid) -> float:
    """What GPTQ loses of the rows' outputs: it makes up for much of what AWQ, which rounds to nearest, moves scales for."""
    return output_error(rows, gptq.quantize(rows, H, grid).dequantize(), H)


class Scaled:
    """Weights on disk, some of them with multiplied columns."""

    def __init__(self, weights: WeightsOnDisk) -> None:
        self.weights, self.dtype = weights, weights.dtype
        self.columns: dict[str, Tensor] = {}

    def read(self, name: str) -> Tensor:
        """One parameter."""
        return self._times(name, self.weights.read(name))

    def parts(self, name: str, count: int) -> Iterator[Tensor]:
        """A parameter in `count` rows at a time."""
        return (self._times(name, part) for part in self.weights.parts(name, count))

    def rows(self, name: str, which: Tensor) -> Tensor:
        """Some rows of a parameter."""
        return self._times(name, self.weights.rows(name, which))

    def entry(self, name: str) -> Entry | None:
        """Where it is stored, without the scales."""
        return self.weights.entry(name)

    def _times(self, name: str, tensor: Tensor) -> Tensor:
        return tensor * self.columns[name] if name in self.columns else tensor
