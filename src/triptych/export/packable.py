"""Which layers transformers cannot load packed.

A packed layer has no `weight` while its model is loaded. `from_pretrained` runs the model's `_init_weights` on every module
then, to fill what was not stored; that of some families (SigLIP, AltCLIP, CLAP, Wav2Vec2, SpeechT5 in transformers 5.23) reads the
`weight` of layers that need no filling, and the load ends in an AttributeError. It is tried out here, family unseen.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import guard_torch_init_functions


def unpackable(model: PreTrainedModel) -> frozenset[str]:
    """Names of the nn.Linear modules that must keep a `weight` to be loaded: store those one byte a code.

    Args:
        model: the model; it is left as it is. Parameters on the meta device are best: they are copied.
    """
    trial = copy.deepcopy(model)
    for tensor in (*trial.parameters(), *trial.buffers()):
        tensor._is_hf_initialized = True
    names = {id(module): name for name, module in trial.named_modules() if isinstance(module, nn.Linear)}
    asked: list[nn.Module] = []
    hidden: dict[int, tuple[nn.Module, nn.Parameter]] = {}
    for module in trial.modules():
        if id(module) in names:
            hidden[id(module)] = (module, module._parameters.pop("weight"))
            module.__class__ = _watched(type(module), asked)
    found = set()
    with torch.no_grad(), guard_torch_init_functions():
        for owner, module in _owned(trial):
            while True:
                asked.clear()
                try:
                    owner._init_weights(module)
                except AttributeError:
                    if not asked:
                        raise
                    layer, weight = hidden[id(asked[-1])]
                    layer._parameters["weight"] = weight
                    found.add(names[id(layer)])
                else:
                    break
    return frozenset(found)


def _owned(model: PreTrainedModel) -> list[tuple[Any, nn.Module]]:
    """Every module with the model whose `_init_weights` it is given to: the innermost around it."""
    owners: dict[str, PreTrainedModel] = {}
    pairs: list[tuple[Any, nn.Module]] = []
    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel):
            owners[name] = module
        around = max((path for path in owners if path == "" or f"{name}.".startswith(f"{path}.")), key=len)
        pairs.append((owners[around], module))
    return pairs


def _watched(kind: type[nn.Module], asked: list[nn.Module]) -> type[nn.Module]:
    """The same class, which notes whose absent `weight` is asked for."""

    def missing(self: nn.Module, name: str) -> Any:
        if name == "weight" and "weight" not in self._parameters:
            asked.append(self)
        return kind.__getattr__(self, name)

    return type(kind.__name__, (kind,), {"__getattr__": missing})
