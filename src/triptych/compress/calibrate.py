"""Calibration from mixed data in one argument: rows of a table, or ready tensors, as batches that a model's forward takes.

Rows are drawn evenly over the whole table. One that cannot be read is listed and the next takes its place; what the
processor makes of the rest is hashed, so that a result names what it was calibrated with.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from triptych.compress.inputs.draw import Draw, Packer, tensors_of
from triptych.compress.inputs.expected import expected_of, read_expected, token_modality
from triptych.compress.inputs.own import OwnRows
from triptych.compress.inputs.processing import ModelProcessor
from triptych.compress.inputs.ready import ReadyRows, is_ready
from triptych.compress.inputs.rows import Rows, read_rows, training_rows
from triptych.errors import InputError
from triptych.models.folder import is_ours
from triptych.models.tiny_batch import ModelBatch

__all__ = ["Calibration", "Skipped", "calibration", "token_modality"]


@dataclass(frozen=True)
class Skipped:
    """A row that was not used, and why."""

    row: int
    reason: str


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a model is calibrated with.

    Attributes:
        batches: of one row each.
        rows: the rows that were used, in the order of the batches: line or row numbers of a table, from 1.
        skipped: rows that were drawn but could not be read.
        columns: of a table, the columns that are read, by modality.
        sha256: of all inputs of all batches, in order.
    """

    batches: Sequence[ModelBatch]
    rows: tuple[int, ...]
    skipped: tuple[Skipped, ...]
    columns: Mapping[str, tuple[str, ...]] = field(repr=False)
    sha256: str


def calibration(
    folder: Path,
    data: Path | Sequence[Mapping[str, Any]],
    *,
    rows: int = 128,
    length: int | None = None,
    seed: int = 0,
    schema: Mapping[str, str] | None = None,
    model: PreTrainedModel | None = None,
) -> Calibration:
    """Batches for the model of a folder.

    Args:
        folder: a Hugging Face model folder with its processor; its weights are not read.
        data: a table (any that `triptych check` reads; of split data the training rows) with any of image, audio, video
            and text columns, whose target or answer column becomes the assistant's turn; rows as mappings; or ready
            batches: safetensors, a folder of them, or mappings of tensors by argument of forward, with the modality of
            each position of input_ids as `__tokens__` where the config's placeholders do not tell it.
        rows: how many batches at most.
        length: most tokens of text in a row, placeholders not counted. Longer texts are cut, and rows of text alone are
            joined until they have so many.
        seed: of the draw.
        schema: kind or kind:role by column, stronger than the schema.yaml beside the table.
        model: the built model, where transformers does not know its class (code that the folder brings).

    Raises:
        InputError: nothing can be read, or (MisfitError) the processor or the tensors are not of this model.
    """
    if rows < 1 or (length is not None and length < 1):
        raise InputError(f"Cannot calibrate with {rows} rows of length {length}.", "Ask for one at least.")
    if is_ours(folder):
        return _of_own(folder, data, rows, seed, schema or {})
    expected = expected_of(folder, model.config, type(model).__name__, type(model)) if model else read_expected(folder)
    if is_ready(data):
        return _of_tensors(ReadyRows(data, expected), rows, seed)
    processor = ModelProcessor(expected, length)
    table, columns = read_rows(data, schema)
    source = Rows(table, columns, processor.reads, processor.sampling_rate)
    read = {modality: columns.of(modality) for modality in sorted(processor.reads) if columns.of(modality)}
    _refuse_unread(table.source.name, processor, read)
    packer = Packer(processor, length) if length and processor.required <= {"text"} else None
    draw = Draw(source.read, processor.batch, table.numbers, packer)
    return _result(*draw.run(rows, seed), read)


def _of_own(
    folder: Path, data: Path | Sequence[Mapping[str, Any]], rows: int, seed: int, schema: Mapping[str, str]
) -> Calibration:
    """For a model that Triptych built."""
    table, told = training_rows(data, schema)
    source = OwnRows(folder, table, told)
    read: dict[str, tuple[str, ...]] = {name: (name,) for name in source.samples.fields}
    return _result(*Draw(lambda i: i, source.batch, table.numbers).run(rows, seed), read)


def _of_tensors(source: ReadyRows, rows: int, seed: int) -> Calibration:
    """From ready batches."""
    if not len(source):
        raise InputError("There are no batches of tensors.", "Give at least one.")
    return _result(*Draw(lambda i: i, source.batch, range(1, len(source) + 1)).run(rows, seed), {})


def _refuse_unread(name: str, processor: ModelProcessor, read: Mapping[str, tuple[str, ...]]) -> None:
    """A table must have a column of each modality that every row needs, and of one that is read at all."""
    architecture = processor.expected.architecture
    for modality in sorted(processor.required - set(read)):
        raise InputError(
            f"{architecture} reads {modality} with every row, but {name} has no such column.",
            f"Add a column of kind {modality}, or name one in the schema.",
        )
    if not read:
        raise InputError(
            f"{name} has no column of {', '.join(sorted(processor.reads))}, which {architecture} reads.",
            "Add one, or say in the schema which column it is.",
        )


def _result(
    batches: Sequence[ModelBatch],
    used: Sequence[int],
    skipped: Mapping[int, str],
    columns: Mapping[str, tuple[str, ...]],
) -> Calibration:
    left_out = tuple(Skipped(row, reason) for row, reason in sorted(skipped.items()))
    return Calibration(batches, tuple(used), left_out, columns, _sha256(batches))


def _sha256(batches: Sequence[ModelBatch]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for name, tensor in tensors_of(batch.inputs):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
        digest.update(b"\n")
    return digest.hexdigest()
