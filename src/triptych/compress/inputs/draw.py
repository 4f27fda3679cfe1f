"""Which rows are drawn, which are joined, and the batches made of them, in memory while they fit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from torch import Tensor

from triptych.compress.inputs.expected import MisfitError
from triptych.compress.inputs.processing import ModelProcessor, ProcessorError
from triptych.compress.inputs.rows import Sample
from triptych.errors import InputError
from triptych.models.tiny_batch import ModelBatch

HELD_BYTES = 2**29  # of batches that stay in memory; the others are made again whenever they are asked for
PATIENCE = 8  # rows that the processor may refuse before the first it accepts
BETWEEN = "\n\n"  # texts that are packed into one row


@dataclass(frozen=True)
class Packer:
    """Joins the words of rows that are nothing but words."""

    processor: ModelProcessor
    length: int

    def takes(self, sample: Sample) -> bool:
        """Whether a sample may be joined with others: an answer belongs to its own question."""
        return not sample.media and not sample.answer

    def full(self, sample: Sample) -> bool:
        """Whether it fills a row."""
        return self.processor.count(sample.text) >= self.length


class Draw:
    """Draws rows evenly over a table and makes batches of them.

    Args:
        read: a row by its place.
        make: a batch from what was read.
        numbers: of the rows in their source, for messages and results.
        packer: what joins rows of text.
    """

    def __init__(
        self,
        read: Callable[[int], Any],
        make: Callable[[Any], ModelBatch],
        numbers: Sequence[int],
        packer: Packer | None = None,
    ) -> None:
        self.read, self.make, self.numbers, self.packer = read, make, numbers, packer
        self.skipped: dict[int, str] = {}

    def run(self, rows: int, seed: int) -> tuple[Sequence[ModelBatch], list[int], dict[int, str]]:
        """Batches, the numbers of the rows in them, and why rows were left out, by their number.

        Raises:
            InputError: no row can be used.
            MisfitError: the first row that could be read says so.
        """
        groups: list[tuple[int, ...]] = []
        held: list[ModelBatch | None] = []
        size = refused = 0
        for group, sample in self._groups(rows, seed):
            try:
                batch = self.make(sample)
            except MisfitError:
                raise
            except InputError as error:
                self.skipped.update(dict.fromkeys(group, str(error)))
                refused += isinstance(error, ProcessorError)
                if refused >= PATIENCE and not groups:  # it is not the rows
                    raise InputError(
                        f"{error.what} So it did {refused} rows of {len(self.numbers):,}.",
                        "See that the processor is the model's own, and what it wants in a row.",
                    ) from error
                continue
            groups.append(group)
            size += sum(tensor.nbytes for _, tensor in tensors_of(batch.inputs))
            held.append(batch if size <= HELD_BYTES else None)
            if len(groups) == rows:
                break
        if not groups:
            i, reason = next(iter(self.skipped.items()))
            raise InputError(
                f"None of {len(self.numbers):,} rows can be used; row {self.numbers[i]}: {reason}",
                "Mend the table or its media.",
            )
        used = [self.numbers[i] for group in groups for i in group]
        return Batches(held, groups, self.again), used, {self.numbers[i]: why for i, why in self.skipped.items()}

    def _groups(self, rows: int, seed: int) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Rows by themselves, and texts in groups that fill a row; the caller stops when it has enough."""
        waiting: list[int] = []
        text: Any = None
        for i in self._order(rows, seed):
            try:
                sample = self.read(i)
            except MisfitError:
                raise
            except InputError as error:
                self.skipped[i] = str(error)
                continue
            if self.packer is None or not self.packer.takes(sample):
                yield (i,), sample
                continue
            waiting.append(i)
            text = sample if text is None else _join([text, sample])
            if self.packer.full(text):
                yield tuple(waiting), text
                waiting, text = [], None
        if waiting:
            yield tuple(waiting), text

    def _order(self, rows: int, seed: int) -> Iterator[int]:
        """One row from each of as many equal stretches of the table as rows are wanted, then those that follow them."""
        wanted = min(rows, len(self.numbers))
        bounds = np.arange(wanted + 1) * len(self.numbers) // wanted
        first = np.random.default_rng(seed).integers(bounds[:-1], bounds[1:])
        stretches = [
            np.roll(np.arange(low, high), low - start)
            for low, high, start in zip(bounds, bounds[1:], first, strict=False)
        ]
        for turn in range(max(map(len, stretches))):
            yield from (int(stretch[turn]) for stretch in stretches if turn < len(stretch))

    def again(self, group: tuple[int, ...]) -> ModelBatch:
        """The batch of rows that made one before."""
        read = [self.read(i) for i in group]
        return self.make(read[0] if len(read) == 1 else _join(read))


def _join(samples: Sequence[Sample]) -> Sample:
    return Sample(text=BETWEEN.join(sample.text for sample in samples))


class Batches(Sequence[ModelBatch]):
    """Batches, of which those beyond the limit are made again whenever they are asked for."""

    def __init__(
        self,
        held: Sequence[ModelBatch | None],
        groups: Sequence[tuple[int, ...]],
        make: Callable[[tuple[int, ...]], ModelBatch],
    ) -> None:
        self._held, self._groups, self._make = held, groups, make

    def __len__(self) -> int:
        return len(self._held)

    @overload
    def __getitem__(self, i: int) -> ModelBatch: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[ModelBatch]: ...
    def __getitem__(self, i: int | slice) -> ModelBatch | Sequence[ModelBatch]:
        if isinstance(i, slice):
            return Batches(self._held[i], self._groups[i], self._make)
        held = self._held[i]
        return self._make(self._groups[i]) if held is None else held


def tensors_of(inputs: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a batch by name; models of our own take a dictionary of them as one input."""
    for name, value in sorted(inputs.items()):
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in tensors_of(value))
        else:
            yield name, value
