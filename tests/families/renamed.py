"""A way to rename all parts of a model."""

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def renamed(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose every submodule has a meaningless name; it computes the same.

    The code inside still says `self.vision_model`: a subclass resolves the old name to the child under its new one, so that a
    child replaced under its new name is the one that runs. Members of lists keep their indices, which mean nothing already.
    """
    model = copy.deepcopy(model)
    containers = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
    for module in list(model.modules()):
        if module._modules and not isinstance(module, containers):
            _rename_children(module)
    return model


def _rename_children(module: nn.Module) -> None:
    new = {old: f"p{i}" for i, old in enumerate(module._modules)}
    module._modules = {new[old]: child for old, child in module._modules.items()}

    class Part(type(module)):  # type: ignore[misc]
        def __getattr__(self, name: str) -> Any:
            return super().__getattr__(new.get(name, name))

    Part.__module__, Part.__qualname__ = (
        type(module).__module__,
        type(module).__qualname__,
    )  # transformers looks these up
    module.__class__ = Part
