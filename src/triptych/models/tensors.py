"""Tensors read straight from safetensors files, one at a time or some rows of one, never a file as a whole.

The files are read, not mapped: a mapped page counts as resident memory for as long as the map lives, and a model that
is larger than the machine would look resident too. Headers are checked before a byte of data is trusted.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

import torch
from torch import Tensor

from triptych.errors import ArtifactError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEADER_LIMIT = 100_000_000  # bytes; as the reference reader
CHUNK = 1 << 24  # bytes copied at a time
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
AGAIN = "Fetch or copy the folder again."


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: its file, type, shape, and first byte in the file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def bytes(self) -> int:
        """Bytes that the tensor takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, first: int = 0, count: int | None = None) -> Tensor:
        """The tensor, or `count` of its rows (entries of the first axis) from row `first`.

        Raises:
            ArtifactError: the file is shorter than its header says.
        """
        shape = self.shape
        if shape and (first or count is not None):
            shape = (min(shape[0] - first, shape[0] if count is None else count), *shape[1:])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        buffer = torch.empty(math.prod(shape) * self.dtype.itemsize, dtype=torch.uint8)
        with self.file.open("rb", buffering=0) as stream:
            self._fill(memoryview(buffer.numpy().data), stream, self.start + first * row)
        return buffer.view(self.dtype).reshape(shape)

    def rows(self, ids: Tensor) -> Tensor:
        """Some rows of a matrix, in the order of `ids`; a look-up in a table that is not in memory."""
        shape = (len(ids), *self.shape[1:])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        buffer = torch.empty(len(ids) * row, dtype=torch.uint8)
        view = memoryview(buffer.numpy().data)
        with self.file.open("rb", buffering=0) as stream:
            for place, number in enumerate(ids.tolist()):
                self._fill(view[place * row : (place + 1) * row], stream, self.start + number * row)
        return buffer.view(self.dtype).reshape(shape)

    def _fill(self, view: memoryview, stream: RawIOBase, place: int) -> None:
        """Read a piece of the file."""
        stream.seek(place)
        done = 0
        while done < len(view):
            got = stream.readinto(view[done:])
            if not got:
                raise ArtifactError(f"{self.file} ends {len(view) - done} bytes too early.", AGAIN)
            done += got


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors that one safetensors file holds.

    Raises:
        ArtifactError: the file is no safetensors file, is cut short or has bytes left over, or a tensor in it overlaps
            another or has a type that is not known; the message names file and tensor.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(HEADER_LIMIT, size - 8):
                raise ArtifactError(f"{file} is no safetensors file, or is cut short.", AGAIN)
            header = json.loads(stream.read(length))
    except FileNotFoundError:
        raise ArtifactError(f"The shard {file} is missing.", AGAIN) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"The header of {file} cannot be read: {error}.", AGAIN) from error
    if not isinstance(header, dict):
        raise ArtifactError(f"The header of {file} is not a table of tensors.", AGAIN)
    note = header.pop("__metadata__", {"format": "pt"})
    if not isinstance(note, dict) or note.get("format") != "pt":
        raise ArtifactError(f"{file} does not say that it was saved from PyTorch; it says {note!r}.", AGAIN)
    found = {name: _entry(file, name, said, 8 + length) for name, said in header.items()}
    end = 8 + length
    for name, entry in sorted(found.items(), key=lambda item: (item[1].start, item[1].bytes)):
        if entry.start != end:
            raise ArtifactError(f"The tensor {name} of {file} does not follow the one before it.", AGAIN)
        end = entry.start + entry.bytes
    if end != size:
        raise ArtifactError(f"{file} has {size} bytes, but its header describes {end}.", AGAIN)
    return found


def _entry(file: Path, name: str, said: object, offset: int) -> Entry:
    try:
        assert isinstance(said, dict)
        dtype, shape = DTYPES[said["dtype"]], tuple(int(n) for n in said["shape"])
        start, stop = (int(n) for n in said["data_offsets"])
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"The entry {name!r} of {file} cannot be understood: {error!r}.", AGAIN) from error
    entry = Entry(file, dtype, shape, offset + start)
    if min((*shape, start), default=0) < 0 or entry.bytes != stop - start:
        raise ArtifactError(f"The entry {name!r} of {file} has a shape that does not fit its bytes.", AGAIN)
    return entry


def read_index(folder: Path) -> dict[str, Entry]:
    """Every tensor of a model folder, from its index or its single file.

    Raises:
        ArtifactError: no safetensors there, a missing shard, or an index and shards that disagree.
    """
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise ArtifactError(f"{folder} holds neither {SINGLE} nor {INDEX}.", _conversion(folder))
        return read_header(folder / SINGLE)
    try:
        weight_map: Mapping[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder / INDEX} cannot be read: {error!r}.", AGAIN) from error
    found: dict[str, Entry] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise ArtifactError(f"{folder / INDEX} names {shard!r}, which is not a file of the folder.", AGAIN)
        for name, entry in read_header(folder / shard).items():
            if weight_map.get(name) != shard:
                raise ArtifactError(f"{folder / shard} holds {name!r}, which the index places elsewhere.", AGAIN)
            found[name] = entry
    lost = next((name for name in weight_map if name not in found), None)
    if lost is not None:
        raise ArtifactError(f"{folder / weight_map[lost]} lacks the tensor {lost!r} that the index promises.", AGAIN)
    return found


def _conversion(folder: Path) -> str:
    pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl") for path in folder.glob(pattern)]
    if not pickles:
        return "Point at a folder saved by `save_pretrained`."
    return (
        f"{min(pickles)} is a pickle, which can run code when it is read, so it is not read. Where you trust it, convert it "
        "once: `from_pretrained(folder).save_pretrained(new_folder)` of transformers writes safetensors."
    )


def copy_tensor(name: str, entry: Entry, file: Path) -> None:
    """Write a safetensors file of one stored tensor, `CHUNK` bytes at a time."""
    kind = next(word for word, dtype in DTYPES.items() if dtype == entry.dtype)
    said = {
        "__metadata__": {"format": "pt"},
        name: {"dtype": kind, "shape": list(entry.shape), "data_offsets": [0, entry.bytes]},
    }
    header = json.dumps(said, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with entry.file.open("rb") as source, file.open("wb") as target:
        target.write(len(header).to_bytes(8, "little") + header)
        source.seek(entry.start)
        left = entry.bytes
        while left:
            part = source.read(min(CHUNK, left))
            if not part:
                raise ArtifactError(f"{entry.file} ends {left} bytes too early.", AGAIN)
            target.write(part)
            left -= len(part)
