"""What reads the output of a normalisation: found in one forward pass of any model, without names.

Scales may move between a normalisation and the linear layers behind it only where nothing else reads its output. Every
function of torch that a run calls is watched: one that is given a normalisation's output and is not the product of a
linear layer bars it, as does a second call of it or of that layer, or the output being part of the model's answer.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from triptych.models.flow import tensors

LOOKS = {"__get__", "size", "dim"}  # read a tensor's form, not its numbers


def readers(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Normalisations whose output linear layers alone read, with these layers; all by module name.

    A normalisation is a module that owns one weight a channel, and perhaps a bias, and nothing else.

    Args:
        model: its parameters may come and go with hooks.
        inputs: of one forward pass, with everything that the model can take.
    """
    tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    watch, handles = _Watch(), []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and id(module.weight) not in tied:
            handles.append(module.register_forward_pre_hook(watch.enter(name)))
            handles.append(module.register_forward_hook(watch.leave))
        elif _normalises(module):
            handles.append(module.register_forward_hook(watch.note(name)))
    try:
        with torch.no_grad(), watch:
            answer = model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    watch.barred |= {watch.outputs[id(x)][0] for x in tensors(answer) if id(x) in watch.outputs}
    calls = Counter(layer for found in watch.found.values() for layer in found)
    return {
        norm: tuple(found)
        for norm, found in watch.found.items()
        if norm not in watch.barred and all(calls[layer] == 1 for layer in found)
    }


def _normalises(module: nn.Module) -> bool:
    own = dict(module.named_parameters())
    return own.keys() <= {"weight", "bias"} and "weight" in own and own["weight"].dim() == 1


class _Watch(TorchFunctionMode):
    """Notes which functions read the outputs of normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.running: str | None = None  # the linear layer whose forward is being computed
        self.outputs: dict[int, tuple[str, Tensor]] = {}  # the tensor is held, so that its id stays its own
        self.found: dict[str, list[str]] = {}
        self.barred: set[str] = set()

    def enter(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            self.running = name

        return hook

    def leave(self, *_: Any) -> None:
        self.running = None

    def note(self, name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if any(name == known for known, _ in self.outputs.values()):
                self.barred.add(name)
            if isinstance(output, Tensor):
                self.outputs[id(output)] = (name, output)

        return hook

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            norm, output = self.outputs.get(id(leaf), ("", None))
            if output is not leaf or output is None or func.__name__ in LOOKS:
                continue
            if self.running is not None and func is functional.linear and args[0] is leaf:
                self.found.setdefault(norm, []).append(self.running)
            else:
                self.barred.add(norm)
        return func(*args, **kwargs)
