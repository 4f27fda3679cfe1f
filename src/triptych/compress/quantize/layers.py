"""The compressible weights of a model, each seen as a matrix, and putting rounded ones back.

A weight's name is its parameter's name in `model.named_parameters()`. Rows are outputs and columns inputs whatever the
layer: convolution [out, in/groups * kernel], recurrent [gates * hidden, inputs], embedding [vocabulary, width].
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from triptych.compress.quantize.activation import Range, fake_quantize
from triptych.compress.quantize.grid import Codes, Grid
from triptych.errors import InputError
from triptych.structure import Settings

Kind = Literal["linear", "convolution", "embedding", "recurrent"]


@dataclass(frozen=True)
class WeightView:
    """One compressible parameter.

    Attributes:
        name: its parameter name.
        path: name of the module it belongs to.
        module: that module.
        kind: how the module uses it.
        parameter: the tensor itself, in the layer's own shape.
        blocks: blocks of rows with inputs of their own: the groups of a convolution, 1 elsewhere.
        aliases: other names of the same parameter, where modules share it.
    """

    name: str
    path: str
    module: nn.Module
    kind: Kind
    parameter: nn.Parameter
    blocks: int = 1
    aliases: tuple[str, ...] = ()

    @property
    def matrix(self) -> Float[Tensor, "rows columns"]:
        """The weight as [outputs, inputs], sharing memory where it can."""
        return self.parameter.detach().reshape(self.parameter.shape[0], -1)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return self.parameter.shape[0], self.parameter[0].numel()


def kind_of(module: nn.Module) -> Kind | None:
    """How a module uses its weights, or None if it has none that we compress."""
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return "convolution"
    if isinstance(module, nn.Embedding):
        return "embedding"
    return "recurrent" if isinstance(module, nn.LSTM | nn.GRU) else None


def attributes(module: nn.Module) -> list[str]:
    """Names of a module's own compressible parameters."""
    kind = kind_of(module)
    if kind != "recurrent":
        return ["weight"] if kind else []
    return [name for name, _ in module.named_parameters(recurse=False) if name.startswith(("weight_ih", "weight_hh"))]


def uses(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every (module path, module, attribute) that holds a compressible weight; shared ones once a holder."""
    for path, module in model.named_modules():
        for attribute in attributes(module):
            yield path, module, attribute


def weights(model: nn.Module) -> dict[str, WeightView]:
    """Every compressible weight of nn.Linear, nn.Conv1d/2d, nn.Embedding, nn.LSTM and nn.GRU, in module order.

    A parameter that several modules share is listed once, under its first name.
    """
    found: dict[int, WeightView] = {}
    for path, module, attribute in uses(model):
        name, parameter = f"{path}.{attribute}".lstrip("."), getattr(module, attribute)
        first = found.get(id(parameter))
        if first is not None:
            found[id(parameter)] = WeightView(**{**vars(first), "aliases": (*first.aliases, name)})
            continue
        kind = kind_of(module)
        assert kind is not None
        blocks = int(module.groups) if isinstance(module, nn.Conv1d | nn.Conv2d) else 1
        found[id(parameter)] = WeightView(name, path, module, kind, parameter, blocks)
    return {view.name: view for view in found.values()}


class LayerScheme(Settings):
    """What is done to one weight.

    Attributes:
        weight: the grid of the weight, or None to leave it as it is.
        activation: 8 to also round the layer's input to eight bits, so that engines multiply integers; None to leave it
            in float.
        per_token: every token's input is rounded to a range of its own, found when the model runs; otherwise one range
            for all, found in calibration.
        method: the quantizer that chooses the codes.
    """

    weight: Grid | None = None
    activation: Literal[8] | None = None
    per_token: bool = False
    method: str = "gptq"

    @model_validator(mode="after")
    def _integer_product(self) -> "LayerScheme":
        if self.activation and (self.weight is None or not self.weight.symmetric or self.weight.group is not None):
            raise ValueError(
                "an eight-bit input needs a symmetric weight grid with one scale a row: integer kernels know no other"
            )
        if self.per_token and not self.activation:
            raise ValueError("per_token says how an input is rounded; it needs activation: 8")
        return self

    @property
    def calibrated(self) -> bool:
        """Whether the range of the input comes from calibration."""
        return self.activation is not None and not self.per_token


@dataclass(frozen=True)
class QuantizedWeight:
    """A rounded weight.

    Attributes:
        codes: the weight as a matrix.
        shape: the layer's own shape of it.
        scheme: what was asked for.
        input: range of the layer's input, where that is rounded too.
        passes: nn.Identity modules that are given the same input and pass it on rounded, as the shortcut of a residual
            block: engines then read one eight-bit tensor for the layer and the sum (measured: 10 % of the latency of a
            residual network).
    """

    codes: Codes
    shape: tuple[int, ...]
    scheme: LayerScheme
    input: Range | None = None
    passes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.input is not None) != self.scheme.calibrated:
            raise InputError(
                f"An input range goes with a calibrated eight-bit activation and with no other; the scheme is {self.scheme!r}."
            )

    def restored(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
        """The weight the codes stand for, in the layer's shape."""
        return self.codes.dequantize(dtype).reshape(self.shape)


class RoundInput:
    """Forward pre-hook that rounds a layer's input to a range; `apply` installs it, `remove` knows it by type."""

    def __init__(self, range: Range) -> None:  # noqa: A002 - the word of the field
        self.range = range

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """The inputs with the first one rounded."""
        return (fake_quantize(inputs[0], self.range), *inputs[1:])


def apply(model: nn.Module, quantized: Mapping[str, QuantizedWeight]) -> None:
    """Replaces weights by what their codes stand for and rounds the inputs of eight-bit layers, in place.

    Applying twice is applying once. Rounded weights stay when `remove` takes the hooks away.

    Raises:
        InputError: a weight that the model lacks, or one of another shape.
    """
    views, modules = weights(model), dict(model.named_modules())
    for name, item in quantized.items():
        view = views.get(name)
        if view is None:
            raise InputError(
                f"The model has no compressible weight {name!r}.", f"It has: {', '.join(views) or 'none'}."
            )
        if tuple(view.parameter.shape) != tuple(item.shape):
            raise InputError(
                f"The codes of {name} are for the shape {tuple(item.shape)}, "
                f"but the model's weight is {tuple(view.parameter.shape)}.",
                "Quantise after pruning, on the model that the codes will be put into.",
            )
    for name, item in quantized.items():
        view = views[name]
        with torch.no_grad():
            view.parameter.copy_(item.restored(torch.float32))
        _drop_hooks(view.module)
        if item.input is None:
            continue
        if view.kind not in ("linear", "convolution"):
            raise InputError(
                f"The input of {name} cannot be rounded: only Linear and Conv layers have eight-bit kernels.",
                "Set activation: null.",
            )
        view.module.register_forward_pre_hook(RoundInput(item.input))
        for path in item.passes:
            if not isinstance(modules.get(path), nn.Identity):
                raise InputError(f"The input of {name} is shared with {path!r}, which is no nn.Identity of this model.")
            _drop_hooks(modules[path])
            modules[path].register_forward_pre_hook(RoundInput(item.input))


def remove(model: nn.Module) -> None:
    """Takes away every input rounding that `apply` installed."""
    for module in model.modules():
        _drop_hooks(module)


def _drop_hooks(module: nn.Module) -> None:
    # Found by their type, not by a handle: a handle does not survive a deep copy of the model.
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, RoundInput):
            del module._forward_pre_hooks[key]
