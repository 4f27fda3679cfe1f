"""Rows of a table for a model that Triptych built: its own processor makes its inputs, and its modalities are its fields."""

from pathlib import Path

from triptych.data.samples import Samples
from triptych.data.schema import Schema
from triptych.data.table import Table
from triptych.models.store import read_model
from triptych.models.tiny_batch import ModelBatch


class OwnRows:
    """Single rows for the model of a folder; a field whose cell is missing is absent, and is not named as a modality.

    Raises:
        ArtifactError: the folder is damaged.
        InputError: the table lacks a field of the model.
    """

    def __init__(self, folder: Path, table: Table, schema: Schema) -> None:
        self.samples = Samples(table, read_model(folder).processor, schema)

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, i: int) -> ModelBatch:
        """The inputs and presence of row `i` (from 0).

        Raises:
            InputError: a cell cannot be read.
        """
        batch = self.samples.batch([i])
        there = [name for name, present in zip(batch.inputs, batch.presence[0].tolist(), strict=True) if present]
        return ModelBatch({"inputs": batch.inputs, "presence": batch.presence}, {n: n for n in there}, None, ())
