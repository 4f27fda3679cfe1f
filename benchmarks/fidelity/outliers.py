"""Activation outliers as large models have them, put into a small one without changing what it computes.

A few channels of every normalisation are multiplied by `factor`, and the columns that read them divided by it. Only a
normalisation read by linear layers alone can be changed so; which these are is seen in one forward pass.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from triptych.compress.quantize.migrate import injected_outliers

LOOKS = {"__get__", "size", "dim"}  # read a tensor's form, not its numbers
PRECISION = 1e-4


class Readers(TorchFunctionMode):
    """Notes which functions read the outputs of normalisations."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        linears = [m for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) not in tied]
        self.linears = {id(m.weight): m for m in linears}
        self.outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is held, so that its id stays its own
        self.found: dict[nn.Module, list[nn.Linear]] = {}
        self.barred: set[nn.Module] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            norm, output = self.outputs.get(id(leaf), (None, None))
            if norm is None or output is not leaf or func.__name__ in LOOKS:
                continue
            linear = self.linears.get(id(args[1])) if func is functional.linear and args[0] is leaf else None
            if linear is None:
                self.barred.add(norm)
            else:
                self.found.setdefault(norm, []).append(linear)
        return func(*args, **kwargs)


def readers(model: nn.Module, example: dict[str, Tensor]) -> dict[nn.Module, list[nn.Linear]]:
    """Normalisations whose output linear layers alone read, with these layers."""
    mode = Readers(model)

    def note(norm: nn.Module, _: Any, output: Tensor) -> None:
        mode.outputs[id(output)] = (norm, output)

    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm) or type(m).__name__.endswith("RMSNorm")]
    hooks = [norm.register_forward_hook(note) for norm in norms]
    with torch.no_grad(), mode:
        model(**example)
    for hook in hooks:
        hook.remove()
    return {norm: list(dict.fromkeys(found)) for norm, found in mode.found.items() if norm not in mode.barred}


@torch.no_grad()
def with_outliers(
    model: nn.Module, example: dict[str, Tensor], factor: float = 20.0, share: float = 0.01, seed: int = 0
) -> nn.Module:
    """A copy of the model with outliers in `share` of the channels (one at least), the same for all norms of a width.

    Raises:
        ValueError: the copy computes something else.
    """
    changed = copy.deepcopy(model).eval()
    chosen: dict[int, list[int]] = {}
    for norm, linears in readers(changed, example).items():
        width = norm.weight.numel()
        if width not in chosen:
            draw = torch.Generator().manual_seed(seed)
            chosen[width] = torch.randperm(width, generator=draw)[: max(1, round(share * width))].tolist()
        injected_outliers(norm, linears, chosen[width], factor)
    for wanted, found in zip(answers(model, example), answers(changed, example), strict=True):
        if not torch.allclose(found, wanted, rtol=PRECISION, atol=PRECISION * float(wanted.abs().max())):
            raise ValueError("the copy with outliers computes something else: a normalisation has readers unseen")
    return changed


def answers(model: nn.Module, example: dict[str, Tensor]) -> list[Tensor]:
    """The outputs that a task reads."""
    out = model(**example)
    return [out[name] for name in ("logits", "logits_per_image") if name in out]
