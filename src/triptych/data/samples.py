"""The rows of a table as batches of tensors: cells are decoded once, kept while they fit, and augmented in batches."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from triptych.data.batch import Batch
from triptych.data.image import ImageFeatures
from triptych.data.processor import Processor
from triptych.data.schema import Schema
from triptych.data.table import Table
from triptych.data.target import Labels
from triptych.errors import InputError


class Samples:
    """Random access to batches of rows.

    Args:
        table: the rows.
        processor: what turns cells into tensors.
        schema: which columns are inputs, target and groups.
        cache_bytes: how much memory loaded cells may take; beyond it the least recently used are loaded again.

    Raises:
        InputError: the table lacks an input column, or a label is missing or unknown.
    """

    def __init__(self, table: Table, processor: Processor, schema: Schema, cache_bytes: int = 2**30) -> None:
        self.table = table
        self.processor = processor
        self.schema = schema
        self.features: dict[str, Any] = dict(processor.features)
        self.fields = tuple(self.features)
        self.cache_bytes = cache_bytes
        self._cells = {name: self._column(name) for name in self.fields}
        self._cache: OrderedDict[tuple[str, Any], Tensor] = OrderedDict()
        self.cached_bytes = 0  # what loaded cells take now
        self.labels: Labels | None = None
        target = processor.target
        if target is not None and target.name in table.names and any(c is not None for c in table.column(target.name)):
            self.labels = target.encode(table)  # an empty column is a table to predict, not one to learn from

    def __len__(self) -> int:
        return len(self.table)

    @property
    def groups(self) -> dict[str, Int64[np.ndarray, " rows"]]:
        """What rows share, as numbers, by group column. A row with a missing cell is a group of its own."""
        found = {}
        for field in self.schema.groups:
            numbers: dict[Any, int] = {}
            keys = [("", i) if cell is None else str(cell) for i, cell in enumerate(self.table.column(field.name))]
            found[field.name] = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
        return found

    def batch(self, indices: Sequence[int], augment: bool = False, generator: torch.Generator | None = None) -> Batch:
        """Load some rows.

        Args:
            indices: their places in the table, from 0.
            augment: vary them at random, as in training.
            generator: the only source of that randomness.

        Raises:
            InputError: a cell cannot be read; the message names table, line, column and file.
        """
        chosen = [int(i) for i in indices]
        labels = None if self.labels is None else torch.from_numpy(self.labels[chosen])
        overlay = self.processor.overlay
        inputs = {}
        presence = torch.ones(len(chosen), len(self.fields), dtype=torch.bool)
        for place, name in enumerate(self.fields):
            cells = self._cells[name]
            missing = [row for row, i in enumerate(chosen) if cells[i] is None]
            stack, features = torch.stack([self._load(name, i) for i in chosen]), self.features[name]
            if isinstance(features, ImageFeatures) and overlay is not None and name == overlay.picture:
                x, theta = features.moved(stack, augment=augment, generator=generator)
                labels = labels if labels is None or not augment else overlay.moved(labels, theta)
            else:
                x = features.features(stack, augment=augment, generator=generator)
            if missing:
                presence[missing, place] = False
                x = x.index_fill(0, torch.tensor(missing), 0)
            inputs[name] = x
        return Batch(inputs, presence, labels, torch.tensor(chosen, dtype=torch.int64))

    def _column(self, name: str) -> list[Any]:
        if name not in self.table.names:
            raise InputError(
                f"{self.table.source.name} has no column {name}, which the model reads.",
                "Add it; its cells may be empty.",
            )
        return self.table.column(name)

    def _load(self, name: str, i: int) -> Tensor:
        """The tensor of one cell, from the cache if it is there. Rows with equal cells share one entry."""
        cell = self._cells[name][i]
        features = self.features[name]
        if cell is None:
            return features.absent()
        key = (name, cell if isinstance(cell, str | int | float) else i)
        kept = self._cache.get(key)
        if kept is not None:
            self._cache.move_to_end(key)
            return kept
        loaded = features.load(cell, self.table.root, f"{self.table.place(i)}, column {name}")
        self._cache[key] = loaded
        self.cached_bytes += loaded.nbytes
        while self.cached_bytes > self.cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self.cached_bytes -= dropped.nbytes
        return loaded
