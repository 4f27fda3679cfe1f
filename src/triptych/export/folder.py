"""Writing a model folder tensor by tensor, in shards, with all that is not weights copied from the folder it is made from.

A shard is held in memory until it is full, then written whole and flushed: what stands in a shard file survives a kill,
and the next run goes on after it to the same bytes.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from triptych.durable import explained, make_folder, rename, sync
from triptych.errors import ArtifactError, InputError
from triptych.manifest import MANIFEST
from triptych.models.tensors import INDEX, SINGLE, Entry, copy_tensor, read_header, read_index

SHARD_BYTES = 512 * 2**20
CONFIG, CARD = "config.json", "README.md"
WEIGHTS = {
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".h5",
    ".msgpack",
    ".ot",
    ".gguf",
}
WEIGHTS |= {".onnx", ".onnx_data", ".tflite", ".mlmodel", ".npz"}


class FolderWriter:
    """Writes the tensors of a model as safetensors shards, then the rest of its folder.

    The same tensors in the same order make the same bytes, however often the work was killed and begun again.

    Args:
        staging: where shards are written; made if missing.
        source: the folder that the model comes from.
        shard_bytes: a shard is closed before it grows beyond this. A larger tensor is a shard of its own.
        finished: shards of an earlier run, in their order, as `shards` gave them. Tensors that they hold are passed over by `add`.

    Raises:
        ArtifactError: the source has no readable config.json, or a finished shard is damaged.
        InputError: the source is quantised already.
    """

    def __init__(
        self, staging: Path, source: Path, *, shard_bytes: int = SHARD_BYTES, finished: Sequence[Path] = ()
    ) -> None:
        self.staging, self.source, self.shard_bytes = staging, source, shard_bytes
        self._config = _read_config(source)
        self._shards = list(finished)
        self._kept = {name for shard in finished for name in read_header(shard)}
        self._added: set[str] = set()
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = 0
        make_folder(staging)

    @property
    def shards(self) -> tuple[Path, ...]:
        """The shards on disk, in their order; they are whole and flushed."""
        return tuple(self._shards)

    def __contains__(self, name: object) -> bool:
        """Whether a tensor stands in a shard on disk, so that it need not be made again."""
        return name in self._kept

    def add(self, name: str, tensor: Tensor) -> None:
        """Take one tensor, by its name on disk; a copy is made, so it may be changed afterwards.

        Raises:
            InputError: the name was added before.
            Stopped: the disk is full.
        """
        if name in self._added:
            raise InputError(f"The tensor {name} was added twice.", "Add each stored name once, and shared ones once.")
        self._added.add(name)
        if name in self._kept:
            return
        if self._waiting and self._waiting_bytes + tensor.nbytes > self.shard_bytes:
            self._flush()
        self._waiting[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        self._waiting_bytes += tensor.nbytes

    def copy(self, name: str, entry: Entry) -> None:
        """Take one tensor as it is stored; one larger than a shard goes from file to file, some bytes at a time.

        Raises:
            InputError, Stopped: as `add`.
        """
        if entry.bytes <= self.shard_bytes or name in self._kept or name in self._added:
            self.add(name, entry.read())
            return
        if self._waiting:
            self._flush()
        self._added.add(name)
        with self._shard(entry.bytes) as partial:
            copy_tensor(name, entry, partial)
        self._kept.add(name)

    def finish(self, config_update: Mapping[str, Any], card: str, *, into: Path | None = None) -> tuple[str, ...]:
        """Write what is left: the last shard, the index, config.json, the card, and the source's other files as they are.

        Args:
            config_update: keys of config.json to set.
            card: the text of README.md.
            into: the folder to make; None for `staging`. Shards that lie elsewhere are linked or copied there.

        Returns:
            Names of the source's files that were left out: weights, other formats and pickles among them.

        Raises:
            InputError: no tensor was added, or a file of the source is a pickle under a name that does not say so.
            Stopped: the disk is full.
        """
        if self._waiting:
            self._flush()
        if not self._shards:
            raise InputError(f"Not one tensor was added to {self.staging}.", "Add the model's tensors first.")
        folder = into or self.staging
        make_folder(folder)
        with explained(folder, lambda: 0):
            self._place(folder)
            # Without it, a reader takes the type of the first floating tensor it meets, which may be a scale.
            said = {} if {"dtype", "torch_dtype"} & self._config.keys() else {"dtype": _dtype(self.source)}
            _write_json(folder / CONFIG, {**self._config, **said, **config_update})
            (folder / CARD).write_text(card, encoding="utf-8")
            return tuple(copy_others(self.source, folder))

    def _flush(self) -> None:
        with self._shard(self._waiting_bytes) as partial:
            save_file(self._waiting, partial, metadata={"format": "pt"})
        self._kept.update(self._waiting)
        self._waiting, self._waiting_bytes = {}, 0

    @contextmanager
    def _shard(self, needs: int) -> Iterator[Path]:
        """A file to write the next shard into; it counts as a shard when it is on the disk whole."""
        path = self.staging / f"shard-{len(self._shards) + 1:05d}.safetensors"
        partial = path.with_name(f".{path.name}.partial")
        with explained(path, lambda: needs):
            yield partial
            sync(partial)
            rename(partial, path)
        self._shards.append(path)

    def _place(self, folder: Path) -> None:
        """Give the shards their final names, and write the index that tells which tensor lies where."""
        count, where, total = len(self._shards), dict[str, str](), 0
        for number, shard in enumerate(self._shards, start=1):
            name = SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            for tensor, entry in read_header(shard).items():
                if tensor in where:
                    raise ArtifactError(f"{shard} and {where[tensor]} both hold {tensor}.", "Remove the shards.")
                where[tensor], total = name, total + entry.bytes
            if shard.parent.samefile(folder):
                shard.rename(folder / name)
            else:
                _link(shard, folder / name)
            self._shards[number - 1] = folder / name
        if count > 1:
            _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})


def copy_others(source: Path, folder: Path) -> Iterator[str]:
    """Copy, byte for byte, what is neither weights nor written here; the names of what is left out.

    Raises:
        InputError: a pickle under a name that does not say so.
    """
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        written = name.as_posix() in {CONFIG, CARD, MANIFEST} or path.name.endswith(".index.json")
        if not path.is_file() or written or any(part.startswith(".") for part in name.parts):
            continue
        if path.suffix.lower() in WEIGHTS:
            if path.suffix != ".safetensors":
                yield name.as_posix()
            continue
        _refuse_pickle(path)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def _read_config(source: Path) -> dict[str, Any]:
    try:
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{source} holds no readable {CONFIG}: {error}.", "Point at a model folder.") from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{source / CONFIG} is not an object.", "Point at a model folder.")
    if config.get("quantization_config"):
        raise InputError(f"{source} is quantised already.", "Point at the model that it was made from.")
    return config


def _dtype(source: Path) -> str:
    """The type of the source's weights, by the name it has in a config."""
    found = next((entry.dtype for entry in read_index(source).values() if entry.dtype.is_floating_point), torch.float32)
    return str(found).removeprefix("torch.")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _link(shard: Path, place: Path) -> None:
    """The shard under a second name where the disk can do that; the first stays, for a run that is killed after this."""
    try:
        place.hardlink_to(shard)
    except OSError:
        shutil.copyfile(shard, place)


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(2)
        zipped = head == b"PK" and b"data.pkl" in stream.read(1 << 16)
    if zipped or (head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        raise InputError(
            f"{path} is a pickle, which can run code when it is read, so it is not passed on.",
            "Remove it from the folder, or keep its content in another form.",
        )
