"""Running a model that is not in memory: weights come from disk when their module is called and go when it returns.

Small parameters (norms, biases, position tables, convolution stems) stay; matrices of linear layers, look-up tables and
stacked experts above `RESIDENT` stream. Of a look-up table only the rows that are asked for are read.
"""

import copy
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from triptych.models.tensors import Entry

RESIDENT = 1 << 18  # numbers in a parameter that may stay in memory
GIANT = 1 << 25  # numbers in a matrix of which only a part is in memory even while it is used: a vocabulary's head
PART = 1 << 22  # numbers in such a part

Loader = Callable[[slice], Tensor]  # some rows of a parameter


@runtime_checkable
class WeightsOnDisk(Protocol):
    """Where parameters come from, by the names that the model gives them (`folder.Weights`)."""

    dtype: torch.dtype

    def read(self, name: str) -> Tensor:
        """One parameter."""

    def parts(self, name: str, count: int) -> Iterator[Tensor]:
        """A parameter in `count` rows at a time."""

    def rows(self, name: str, which: Tensor) -> Tensor:
        """Some rows of a parameter."""

    def entry(self, name: str) -> Entry | None:
        """The stored tensor that is this parameter as it is, or None where it is made from several."""


class Stream:
    """Hooks that fill a skeleton's parameters on demand. One weight at a time is in memory, besides what is pinned.

    Attributes:
        model: the skeleton; its streamed parameters are on the meta device between calls.
        weights: where they come from.
        streamed: the parameters that come and go, and their modules. `always` names some that do, however small.
    """

    def __init__(
        self, model: nn.Module, weights: WeightsOnDisk, *, resident: int = RESIDENT, always: Collection[str] = ()
    ) -> None:
        self.model, self.weights = model, weights
        self.streamed: dict[str, nn.Module] = {}
        self._empty: dict[str, nn.Parameter] = {}  # the skeleton's own, so that names that share one still do
        self._loaders: dict[str, Loader] = {}
        self._pinned: set[str] = set()
        self._places: dict[int, list[tuple[nn.Module, str]]] = {}
        self._handles: list[Any] = []
        whole = {id(child) for m in model.modules() if isinstance(m, nn.MultiheadAttention) for child in m.modules()}
        for path, module in model.named_modules():
            for attribute, parameter in module.named_parameters(recurse=False):
                name = f"{path}.{attribute}".lstrip(".")
                if name in always or (_streams(module, attribute, parameter, resident) and id(module) not in whole):
                    self.streamed[name], self._empty[name] = module, parameter
                else:
                    self._places.setdefault(id(parameter), []).append((module, attribute))
        self._fill()
        for path, module in model.named_modules():
            names = [n for n in self.streamed if n.rpartition(".")[0] == path and self.streamed[n] is module]
            if names:
                self._hook(module, names)

    def _fill(self) -> None:
        """Load what stays; tied parameters stay one object."""
        names = {id(p): n for n, p in self.model.named_parameters()}
        for key, places in self._places.items():
            value = nn.Parameter(self.weights.read(names[key]), requires_grad=False)
            for module, attribute in places:
                setattr(module, attribute, value)
        self._places.clear()

    def _hook(self, module: nn.Module, names: list[str]) -> None:
        def bring(*_: Any) -> None:
            for name in names:
                self.load(name)

        def take(*_: Any) -> None:
            for name in names:
                self.drop(name)

        if self.in_parts(names[0]):
            module.forward = self._in_parts(module, names[0])
            return
        # A table with a forward of its own may not look its rows up by what it is given (positions from a length).
        looked_up = isinstance(module, nn.Embedding) and _looks_up(module)
        before = self._look_up(names[0]) if looked_up else bring
        self._handles.append(module.register_forward_pre_hook(before))
        self._handles.append(module.register_forward_hook(take, always_call=True))

    def _in_parts(self, module: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
        """The product with a matrix of which some rows at a time are read."""

        def forward(x: Tensor) -> Tensor:
            weight, bias = module.get_parameter("weight"), module._parameters.get("bias")
            if not weight.is_meta:
                return nn.functional.linear(x, weight, bias)
            y, first = x.new_empty(*x.shape[:-1], len(weight)), 0
            for part in self.parts(name, max(1, PART // weight.shape[1])):
                y[..., first : first + len(part)] = nn.functional.linear(x, part)
                first += len(part)
            return y if bias is None else y.add_(bias)

        return forward

    def _look_up(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        """Read the rows that are asked for, and ask for them by their place among those."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            entry = None if name in self._loaders else self.weights.entry(name)
            if entry is None:
                self.load(name)
                return None
            ids, places = inputs[0].unique(return_inverse=True)
            _set(module, name, entry.rows(ids).to(self.weights.dtype))
            return (places, *inputs[1:])

        return hook

    def settle(self, batch: Mapping[str, Any]) -> None:
        """Run the model once, and keep in memory what its code reads without calling the module that owns it.

        Raises:
            Exception: whatever the model raises for another reason.
        """
        while True:
            failed: Exception | None = None
            try:
                with torch.no_grad(), _Missing(self.streamed) as seen:
                    self.model(**batch)
            except (RuntimeError, NotImplementedError) as error:
                failed = error
            if not seen.names:
                if failed is not None:
                    raise failed
                return
            kept: dict[int, nn.Parameter] = {}
            for name in sorted(seen.names):
                key = id(self._empty[name])
                if key not in kept:
                    kept[key] = nn.Parameter(self.read(name), requires_grad=False)
                setattr(self.streamed.pop(name), name.rpartition(".")[2], kept[key])

    def replace(self, name: str, loader: Loader) -> None:
        """From here on a parameter is what `loader` returns instead of what is on disk."""
        self._loaders[name] = loader

    def restore(self, name: str) -> None:
        """From here on a parameter is again what is on disk."""
        self._loaders.pop(name, None)

    def read(self, name: str) -> Tensor:
        """What a parameter is now."""
        return self._loaders[name](slice(None)) if name in self._loaders else self.weights.read(name)

    def parts(self, name: str, count: int) -> Iterator[Tensor]:
        """What a parameter is now, in `count` rows at a time."""
        if name not in self._loaders:
            yield from self.weights.parts(name, count)
            return
        for first in range(0, self.model_shape(name)[0], count):
            yield self._loaders[name](slice(first, first + count))

    def in_parts(self, name: str) -> bool:
        """Whether the weight of a linear layer is so large that some rows at a time are multiplied with."""
        module = self.streamed[name]
        plain = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
        return plain and math.prod(self.model_shape(name)) > GIANT

    def load(self, name: str) -> None:
        """Put a parameter into its module, unless it is there."""
        if name not in self.streamed:  # it stays
            return
        module = self.streamed[name]
        if module.get_parameter(name.rpartition(".")[2]).is_meta:
            _set(module, name, self.read(name))

    def drop(self, name: str) -> None:
        """Take a parameter out of memory, unless it is pinned."""
        if name not in self.streamed:
            return
        module = self.streamed[name]
        attribute = name.rpartition(".")[2]
        if name not in self._pinned and not module.get_parameter(attribute).is_meta:
            module._parameters[attribute] = self._empty[name]  # without the checks that would look like a use of it

    def model_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter, whether or not it is in memory."""
        entry = self.weights.entry(name)
        if entry is not None:
            return entry.shape
        return tuple(self.streamed[name].get_parameter(name.rpartition(".")[2]).shape)

    @contextmanager
    def pinned(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Hold parameters in memory, with these values, for as long as the context lasts."""
        for name, value in values.items():
            _set(self.streamed[name], name, value)
        self._pinned |= values.keys()
        try:
            yield
        finally:
            self._pinned -= values.keys()
            for name in values:
                self.drop(name)

    @contextmanager
    def held(self, limit: int) -> Iterator[None]:
        """Hold what is streamed for as long as the context lasts, where it takes `limit` bytes or fewer.

        Look-up tables, of which few rows are read, and what several names share come and go as ever.
        """
        names = Counter(map(id, self._empty.values()))
        some = [
            name
            for name, module in self.streamed.items()
            if names[id(self._empty[name])] == 1 and not isinstance(module, nn.Embedding)
        ]
        size = sum(math.prod(self.model_shape(name)) for name in some) * self.weights.dtype.itemsize
        with self.pinned({name: self.read(name) for name in some} if size <= limit else {}):
            yield

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


class _Missing(TorchFunctionMode):
    """Notes which streamed parameters an operation computed with while they were not in memory."""

    def __init__(self, streamed: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.streamed = streamed
        self.names: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation; where it makes a tensor of a parameter that is elsewhere, or fails to, note which.

        Not every kernel refuses: a product with a matrix that is not there can come back as numbers.
        """
        given = {id(x) for x in (*args, *(kwargs or {}).values()) if isinstance(x, nn.Parameter) and x.is_meta}
        result = None
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            if given and (result is None or isinstance(result, Tensor)):
                self.names |= {
                    n for n, m in self.streamed.items() if id(m.get_parameter(n.rpartition(".")[2])) in given
                }
        return result


def _looks_up(module: nn.Module) -> bool:
    """Whether a table answers to ids as nn.Embedding does, up to what is done to the rows afterwards."""
    with torch.no_grad():
        probe = copy.copy(module)
        probe._parameters = {"weight": nn.Parameter(torch.arange(8.0)[:, None].expand(8, 4).contiguous())}
        probe._forward_pre_hooks, probe._forward_hooks = OrderedDict(), OrderedDict()
        try:
            rows = probe(torch.tensor([[3, 5]]))
        except (RuntimeError, TypeError, IndexError, AttributeError, ValueError):
            return False
        return rows.shape == (1, 2, 4) and bool((rows[0, 0] * 5 == rows[0, 1] * 3).all())


def _streams(module: nn.Module, attribute: str, parameter: nn.Parameter, resident: int) -> bool:
    if parameter.numel() <= resident or parameter.dim() < 2:
        return False
    linear = isinstance(module, nn.Linear | nn.Embedding) and attribute == "weight"
    stacked = parameter.dim() == 3 and not any(module.children())  # experts: read by the module that owns them
    return linear or stacked


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    setattr(module, name.rpartition(".")[2], nn.Parameter(value, requires_grad=False))
