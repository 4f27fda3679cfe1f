"""What running a model costs, module by module: multiply-adds and seconds."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@contextmanager
def counted(macs: Counter[str], running: Callable[[], str]) -> Iterator[None]:
    """Add to `macs` the multiply-adds of every matrix product and convolution, under the module that `running` names."""

    class Count(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(
            cls,
        ) -> bool:  # nothing is compiled here, and being skipped costs more than what is counted
            return False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            macs[running()] += _macs(func, args, kwargs or {}, out)
            return out

    with Count():
        yield


def _macs(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """PyTorch's own formulas, and the fused kernels of the CPU that they leave out."""
    packet = func.overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out)) // 2
    name = packet.__name__
    if name == "_scaled_dot_product_flash_attention_for_cpu":
        query, key, value = (tuple(tensor.shape) for tensor in args[:3])
        return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    if name == "_native_multi_head_attention":  # query, key and value of one sequence, and the two matrices around
        query, into, out_of = args[0], args[5], args[7]
        tokens = prod(query.shape[:-1])
        return tokens * (into.numel() + out_of.numel() + 2 * query.shape[-2] * query.shape[-1])
    if name == "mkldnn_rnn_layer":  # steps x batch x (input and recurrent weights)
        return args[0].shape[0] * args[0].shape[1] * (args[1].numel() + args[2].numel())
    if name == "_grouped_mm":  # each row is multiplied by the matrix of its group
        return int(args[0].numel()) * int(args[1].shape[-1])
    return 0


def seconds(model: nn.Module, once: Callable[[], Any], paths: Collection[str], *, repeats: int = 3) -> dict[str, float]:
    """The least seconds that each of these modules took in one run, all its calls together; none may hold another.

    Args:
        model: whose modules are timed.
        once: runs it.
        paths: of the modules.
        repeats: runs, of which the fastest counts.
    """
    spent: dict[str, list[float]] = {path: [] for path in paths}
    began: dict[str, float] = {}
    total: dict[str, float] = {}

    def enter(path: str) -> None:
        began[path] = time.perf_counter()

    def leave(path: str) -> None:
        total[path] = total.get(path, 0.0) + time.perf_counter() - began[path]

    hooks = []
    for path in paths:
        module = model.get_submodule(path)
        hooks.append(module.register_forward_pre_hook(lambda *_, path=path: enter(path), prepend=True))
        hooks.append(module.register_forward_hook(lambda *_, path=path: leave(path)))
    try:
        for _ in range(repeats):
            total.clear()
            once()
            for path, times in spent.items():
                times.append(total.get(path, 0.0))
    finally:
        for hook in hooks:
            hook.remove()
    return {path: min(times) for path, times in spent.items()}
