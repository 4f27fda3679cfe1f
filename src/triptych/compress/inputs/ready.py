"""Batches of tensors that someone made already: safetensors files, or dictionaries of tensors in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from triptych.compress.inputs.expected import NAMES, PADDING, Expected
from triptych.errors import InputError
from triptych.models.tiny_batch import ModelBatch

TOKENS = "__tokens__"
RIGHT = "Write one tensor per argument of forward, the batch along the first axis of each."


def is_ready(data: Path | Sequence[Mapping[str, Any]]) -> bool:
    """Whether the data are tensors rather than rows of a table."""
    if isinstance(data, Path):
        return data.suffix == ".safetensors" or (data.is_dir() and any(data.glob("*.safetensors")))
    return bool(data) and all(isinstance(value, Tensor) for value in data[0].values())


@dataclass(frozen=True)
class Place:
    """Where one batch lies: a file or the number of a dictionary, and its row; None for all rows, which hang together."""

    source: Path | int
    row: int | None


class ReadyRows:
    """Single rows of ready batches, read when they are asked for.

    Rows of which one tensor has another number than the others (patches of several pictures in one list) cannot be told
    apart and stay together.

    Raises:
        InputError: a file cannot be read, or is empty.
    """

    def __init__(self, data: Path | Sequence[Mapping[str, Any]], expected: Expected) -> None:
        self.expected = expected
        self.memory = None if isinstance(data, Path) else list(data)
        self.places: list[Place] = []
        for source in self._sources(data):
            shapes = self._shapes(source)
            firsts = {shape[0] if shape else 0 for shape in shapes.values()}
            if not shapes or 0 in firsts:
                raise InputError(f"{self.name(source)} holds no batch: {shapes}.", RIGHT)
            rows = firsts.pop() if len(firsts) == 1 else None
            self.places += [Place(source, row) for row in range(rows)] if rows else [Place(source, None)]

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, i: int) -> ModelBatch:
        """The batch at place `i`.

        Raises:
            InputError: its file is damaged, it does not fit the model, or its `__tokens__` do not fit its ids.
        """
        place = self.places[i]
        tensors = self._read(place)
        codes = tensors.pop(TOKENS, None)
        giver = self.name(place.source) + ("" if place.row is None else f", row {place.row + 1}")
        if codes is not None:
            self._refuse_codes(codes, tensors, giver)
            codes = codes.long()
        return self.expected.batch(tensors, giver, codes)

    def name(self, source: Path | int) -> str:
        """What a source is called in messages."""
        return source.name if isinstance(source, Path) else f"batch {source + 1}"

    def _sources(self, data: Path | Sequence[Mapping[str, Any]]) -> Sequence[Path | int]:
        if not isinstance(data, Path):
            return list(range(len(data)))
        return sorted(data.glob("*.safetensors")) if data.is_dir() else [data]

    def _shapes(self, source: Path | int) -> dict[str, tuple[int, ...]]:
        if isinstance(source, int):
            assert self.memory is not None
            return {name: tuple(value.shape) for name, value in self.memory[source].items()}
        try:
            with safe_open(source, framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{source} cannot be read as safetensors: {error}.", "Write it again.") from error

    def _read(self, place: Place) -> dict[str, Tensor]:
        rows = slice(None) if place.row is None else slice(place.row, place.row + 1)
        if isinstance(place.source, int):
            assert self.memory is not None
            return {name: value[rows] for name, value in self.memory[place.source].items()}
        try:
            with safe_open(place.source, framework="pt") as file:
                return {name: file.get_slice(name)[rows] for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{place.source} cannot be read as safetensors: {error}.", "Write it again.") from error

    def _refuse_codes(self, codes: Tensor, tensors: Mapping[str, Tensor], giver: str) -> None:
        ids = tensors.get("input_ids", tensors.get("decoder_input_ids"))
        whole = not codes.is_floating_point() and codes.dtype != torch.bool and codes.ndim == 2
        if not whole or (ids is not None and ids.shape != codes.shape):
            raise InputError(
                f"{giver}: {TOKENS} is {codes.dtype} of {tuple(codes.shape)}.",
                f"Give an integer per position of input_ids{f', {tuple(ids.shape)}' if ids is not None else ''}.",
            )
        low, high = int(codes.min()), int(codes.max())
        if low < PADDING or high >= len(NAMES):
            said = ", ".join(f"{i} {name}" for i, name in enumerate(NAMES))
            raise InputError(f"{giver}: {TOKENS} holds {low if low < PADDING else high}.", f"Use {said}, -1 padding.")
