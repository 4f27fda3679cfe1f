"""A cache of keys and values in eight bits: what attention layers write to it is watched once, after rounding.

An attention layer is given its cache as an argument and writes to it with `update`; a stand-in for the cache sees the keys
and values of every layer of any model (compressed-tensors does the same where the folder is read).
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from triptych import console
from triptych.compress.quantize.cache import Format, cache_scales, cached, widest
from triptych.errors import InputError
from triptych.models.tiny_batch import ModelBatch

NAMES = ("cache", "past_key_values", "past_key_value")  # of the argument, in newer and older code


def caches(model: nn.Module) -> dict[str, str]:
    """The modules that write to a cache, and the name of the argument that they are given it by."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        parameters = inspect.signature(module.forward).parameters
        argument = next((word for word in NAMES if word in parameters), None)
        if argument is not None:
            found = {
                n: a for n, a in found.items() if not name.startswith(f"{n}.") and n
            }  # those around only pass it on
            found[name] = argument
    return found


def scheme(kind: Format | None) -> dict[str, Any] | None:
    """What the config of the folder says of the cache, as compressed-tensors spells it."""
    if kind is None:
        return None
    number = "float" if kind == "fp8" else "int"
    return {"num_bits": 8, "type": number, "symmetric": True, "strategy": "tensor", "dynamic": False}


def observe(model: nn.Module, batches: Sequence[ModelBatch], kind: Format) -> dict[str, Tensor]:
    """The scales of every layer's keys and values, from the largest that the samples bring.

    Raises:
        InputError: nothing writes to a cache.
    """
    found: dict[str, Tensor] = {}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [_hand(model, name, argument, _Watch(seen, name)) for name, argument in caches(model).items()]
    try:
        with torch.no_grad(), console.progress("watch keys and values", len(batches), unit="batch") as advance:
            for batch in batches:
                model(**batch.inputs)
                found = widest(found, cache_scales(seen, kind))
                seen.clear()
                advance(1)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise InputError("No layer of this model keeps keys and values for later.", "Leave --kv-cache out.")
    return found


def round_caches(model: nn.Module, scales: Mapping[str, Tensor], kind: Format) -> None:
    """From here on every attention layer reads the keys and values that such a cache gives back."""
    for name, argument in caches(model).items():
        if f"{name}.k_scale" in scales:
            _hand(model, name, argument, _Rounded(scales[f"{name}.k_scale"], scales[f"{name}.v_scale"], kind))


def _hand(model: nn.Module, name: str, argument: str, cache: Any) -> Any:
    """Give a module this cache in each call."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, argument: cache}

    return model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)


class _Watch:
    """A cache that keeps nothing and tells what it was given."""

    def __init__(self, seen: dict[str, tuple[Tensor, Tensor]], name: str) -> None:
        self.seen, self.name = seen, name

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The same, noted."""
        self.seen[self.name] = keys, values
        return keys, values


class _Rounded:
    """A cache that keeps nothing and gives back what eight bits hold."""

    def __init__(self, k_scale: Tensor, v_scale: Tensor, kind: Format) -> None:
        self.scales, self.kind = (k_scale, v_scale), kind

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The keys and values that come back."""
        return cached(keys, self.scales[0], self.kind), cached(values, self.scales[1], self.kind)
