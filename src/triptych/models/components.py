"""The components of a fusion model: their role, the modalities that reach them, their parameters and bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from triptych.models.fusion_model import FusionModel

Role = Literal["encoder", "connector", "fusion", "head", "embedding"]


@dataclass(frozen=True)
class Component:
    """A part of the model. `prefix` is the dotted name of its module; "" where it is a bare parameter of the model."""

    name: str
    role: Role
    modalities: tuple[str, ...]
    prefix: str
    parameters: int

    def owns(self, tensor: str) -> bool:
        """Whether a parameter of that dotted name belongs here."""
        return tensor == self.prefix or tensor.startswith(f"{self.prefix}.")


def components(model: FusionModel) -> list[Component]:
    """All components in the order in which data flows through them; together they own every parameter once."""
    found = []
    for field, encoder in model.encoders.items():
        found.append(Component(f"{field}.encoder", "encoder", (field,), f"encoders.{field}", _count(encoder)))
        connector = model.projectors[field]
        found.append(Component(f"{field}.connector", "connector", (field,), f"projectors.{field}", _count(connector)))
    found.append(Component("absent", "embedding", model.fields, "absent", model.absent.numel()))
    found.append(Component("fusion", "fusion", model.fields, "fusion", _count(model.fusion)))
    found.append(Component("head", "head", model.fields, "task", _count(model.task)))
    return found


def tensor_bytes(component: Component, sizes: Mapping[str, int]) -> int:
    """Bytes of a component, from the bytes of each tensor by its dotted name."""
    return sum(size for name, size in sizes.items() if component.owns(name))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
