"""Every calibration batch at the same layer at the same time, in one forward pass, whatever the model's code does.

Each batch runs the model's own `forward` as a coroutine that stops before every layer of interest. When all batches
that will come have come, the layer's inputs over the whole calibration set are known; whoever drives may replace the
layer's weights, and the batches go on with them. So a layer always sees inputs that went through the layers before it
as they now are, nothing is run twice, and nothing needs to be traced: residual streams, windows, cross-attention,
several towers and data-dependent branches are the model's own affair.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from triptych.models.tiny_batch import ModelBatch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Stop:
    """All batches that have come to one layer.

    Attributes:
        name: the layer.
        inputs: batch number -> what the layer is about to be given.
        around: of each watched module that batches are inside of, batch number -> what it was called with.
    """

    name: str
    inputs: Mapping[int, Tensor]
    around: Mapping[str, Mapping[int, Arguments]] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """The first call of a layer in a forward pass.

    Attributes:
        name: the layer.
        shares: the layer before it, where both read one tensor.
        axes: of the input.
    """

    name: str
    shares: str | None
    axes: int


def trace(model: nn.Module, batch: ModelBatch, layers: Mapping[str, nn.Module]) -> list[Call]:
    """The layers in the order in which they first run, and which of them read the same tensor as the one before."""
    calls: list[Call] = []
    seen: set[str] = set()
    last: list[tuple[str, Tensor, int]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:  # noqa: ARG001
            x = inputs[0]
            if name in seen:
                return
            seen.add(name)
            same = bool(last) and last[0][1] is x and last[0][2] == x._version
            calls.append(Call(name, last[0][0] if same else None, x.dim()))
            last[:] = [(name, x, x._version)]

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in layers.items()]
    try:
        with torch.no_grad():
            model(**batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def lockstep(
    model: nn.Module,
    batches: Sequence[ModelBatch],
    stops: Mapping[str, nn.Module],
    order: Sequence[str],
    watched: Mapping[str, nn.Module] | None = None,
) -> Iterator[Stop]:
    """Run the model on all batches at once, stopping at each of `stops` in `order`.

    After the last stop of `order` the batches are abandoned: what comes after it is never computed.

    Args:
        model: in evaluation mode.
        batches: each is one coroutine; its activations stay in memory until the end.
        stops: the layers to stop before, by name.
        order: the names in the order of a forward pass; a batch may miss some, and comes to each at most once (later
            calls of a layer that a model calls twice run through).
        watched: modules, by name, of which is told what they were called with while batches are inside of them.
    """
    rank = {name: number for number, name in enumerate(order)}
    walk = _Walk(model)
    # Prepended: before any hook that brings the layer's weights in, which is to see what was decided here.
    handles = [stops[name].register_forward_pre_hook(walk.stop_before(name), prepend=True) for name in order]
    for name, module in (watched or {}).items():
        handles.append(module.register_forward_pre_hook(walk.enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(walk.leave(name)))
    try:
        for number, batch in enumerate(batches):
            walk.start(number, batch)
        while walk.waiting:
            name = min((name for name, _ in walk.waiting.values()), key=rank.__getitem__)
            here = {number: x for number, (at, x) in walk.waiting.items() if at == name}
            yield Stop(name, here, walk.around)
            if name == order[-1]:
                return
            for number in here:
                walk.go_on(number)
    finally:
        for handle in handles:
            handle.remove()
        walk.abandon()


class _Walk:
    """The coroutines of one run, and where each of them waits."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.home = model, getcurrent()
        self.waiting: dict[int, tuple[str, Tensor]] = {}
        self.around: dict[str, dict[int, Arguments]] = {}
        self._walkers: dict[int, greenlet] = {}
        self._numbers: dict[greenlet, int] = {}
        self._passed: set[tuple[int, str]] = set()

    def stop_before(self, name: str) -> Any:
        """A hook that hands the layer's input to whoever drives, when it is called by one of these coroutines."""

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:  # noqa: ARG001
            number = self._numbers.get(getcurrent())
            if number is not None and (number, name) not in self._passed:
                self._passed.add((number, name))
                self.home.switch((name, inputs[0]))

        return hook

    def enter(self, name: str) -> Any:
        """A hook that notes what a module was called with."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
            number = self._numbers.get(getcurrent())
            if number is not None:
                self.around.setdefault(name, {})[number] = args, kwargs

        return hook

    def leave(self, name: str) -> Any:
        """A hook that forgets it when the module returns."""

        def hook(*_: Any) -> None:
            self.around.get(name, {}).pop(self._numbers.get(getcurrent(), -1), None)

        return hook

    def start(self, number: int, batch: ModelBatch) -> None:
        """Run one batch to its first stop."""
        walker = greenlet(lambda: self.model(**batch.inputs))
        self._walkers[number], self._numbers[walker] = walker, number
        self.go_on(number)

    def go_on(self, number: int) -> None:
        """Run one batch to its next stop, or to its end."""
        self.home = getcurrent()
        walker = self._walkers[number]
        with torch.no_grad():  # here, not around the yields: whoever drives keeps its own mode
            reached = walker.switch()
        if walker.dead:
            self.waiting.pop(number, None)
        else:
            self.waiting[number] = reached

    def abandon(self) -> None:
        """Unwind what each was in the middle of."""
        with torch.no_grad():
            for walker in self._walkers.values():
                walker.throw()
