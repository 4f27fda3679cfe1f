"""Frozen encoders run once: what they say of each cell is kept, and looked up at every step.

A frozen encoder says the same of a cell at every step as long as the cell is not augmented. So while a model is trained, its frozen
encoders are replaced by tables of what they said (tokens in two bytes a number), and their inputs by places in those tables.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from triptych import console
from triptych.data.samples import Samples
from triptych.models.fusion_model import FusionModel
from triptych.structure import Encoded

BATCH = 32


class Kept(nn.Module):
    """What an encoder said of every cell, by the cell's place."""

    def __init__(self, pooled: Tensor, tokens: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.said = (pooled, tokens, mask)  # no buffers: they are not the model's to store

    def forward(self, places: Int[Tensor, " batch"]) -> Encoded:
        """The encoder's output for these cells."""
        pooled, tokens, mask = (one[places] for one in self.said)
        return Encoded(pooled, tokens.float(), mask)


class Places:
    """Features that are a cell's place in a table of `Kept`."""

    def __init__(self, places: dict[Any, int]) -> None:
        self.places = places

    def load(self, cell: Any, root: Any, where: str) -> Tensor:  # noqa: ARG002 - one signature for all features
        """The place of a cell."""
        return torch.tensor(self.places[cell])

    def features(self, stack: Tensor, augment: bool = False, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002 - as above
        """The places themselves."""
        return stack

    def absent(self) -> Tensor:
        """Any place: presence says that it does not count."""
        return torch.tensor(0)


@contextmanager
def kept(model: FusionModel, rows: Samples, valid: Samples) -> Iterator[tuple[Samples, Samples]]:
    """The samples to train and to validate on while the model's frozen encoders are tables; they come back at the end."""
    frozen = {name: encoder for name, encoder in model.encoders.items() if getattr(encoder, "frozen", False)}
    frozen = {name: encoder for name, encoder in frozen.items() if all(_named(s, name) for s in (rows, valid))}
    looked = (rows, valid)
    if frozen:
        looked = (Samples(rows.table, rows.processor, rows.schema), Samples(valid.table, valid.processor, valid.schema))
    try:
        for name, encoder in frozen.items():
            model.encoders[name], places = _run(name, encoder, [rows, valid])
            for samples in looked:
                samples.features[name] = places
        yield looked
    finally:
        for name, encoder in frozen.items():
            model.encoders[name] = encoder


def _named(samples: Samples, name: str) -> bool:
    """Whether a column's cells are names (of files, say) by which what was said of them can be found again."""
    return all(cell is None or isinstance(cell, str) for cell in samples.table.column(name))


@torch.no_grad()
def _run(name: str, encoder: nn.Module, tables: Sequence[Samples]) -> tuple[Kept, Places]:
    first: dict[str, tuple[Samples, int]] = {}
    for samples in tables:
        for row, cell in enumerate(samples.table.column(name)):
            if cell is not None:
                first.setdefault(cell, (samples, row))
    said: list[tuple[Tensor, ...]] = []
    cells = list(first)
    encoder.eval()
    with console.progress(f"run the frozen encoder of {name}", len(cells), unit="cell") as advance:
        for start in range(0, len(cells), BATCH):
            loaded = []
            for cell in cells[start : start + BATCH]:
                samples, row = first[cell]
                where = f"{samples.table.place(row)}, column {name}"
                loaded.append(samples.features[name].load(cell, samples.table.root, where))
            x = tables[0].features[name].features(torch.stack(loaded))
            pooled, tokens, mask = encoder(x)
            said.append((pooled, tokens.half(), mask))
            advance(len(loaded))
    return Kept(*(torch.cat(parts) for parts in zip(*said, strict=True))), Places({c: i for i, c in enumerate(cells)})
