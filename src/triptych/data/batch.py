"""A batch: the inputs by field, which of them are there, the labels, and where the rows stand in their table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


@dataclass
class Batch:
    """Some rows, ready for a model.

    Attributes:
        inputs: a tensor a field, batch axis first.
        presence: True where a cell is there; columns in the order of `inputs`. An absent cell's tensor is all zeros.
        labels: class indices, numbers or token ids, None for a table without target.
        index: the rows' places (from 0) in their table.
    """

    inputs: dict[str, Tensor]
    presence: Bool[Tensor, "batch modalities"]
    labels: Shaped[Tensor, "batch ..."] | None
    index: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return replace(
            self,
            inputs={name: x.to(device) for name, x in self.inputs.items()},
            presence=self.presence.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            index=self.index.to(device),
        )

    def select(self, rows: Sequence[int] | Tensor) -> "Batch":
        """Some of the rows, in the given order (places in this batch, from 0)."""
        chosen = torch.as_tensor(rows, dtype=torch.int64, device=self.index.device)
        return replace(
            self,
            inputs={name: x[chosen] for name, x in self.inputs.items()},
            presence=self.presence[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            index=self.index[chosen],
        )

    def without(self, name: str) -> "Batch":
        """The same rows with one field absent."""
        presence = self.presence.clone()
        presence[:, self._place(name)] = False
        return replace(self, inputs={**self.inputs, name: torch.zeros_like(self.inputs[name])}, presence=presence)

    def shuffled(self, name: str, permutation: Sequence[int] | Tensor) -> "Batch":
        """The same rows, each with the cell of another row in one field, its absence included."""
        return self.with_field(name, self.select(permutation))

    def with_field(self, name: str, other: "Batch") -> "Batch":
        """The same rows with one field taken from another batch of as many rows, its absence included."""
        presence = self.presence.clone()
        place = self._place(name)
        presence[:, place] = other.presence[:, place]
        return replace(self, inputs={**self.inputs, name: other.inputs[name]}, presence=presence)

    def _place(self, name: str) -> int:
        return list(self.inputs).index(name)
