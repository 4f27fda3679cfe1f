"""What a long compression has finished, block by block, so that a kill costs one block and changes no byte.

Each finished block is one safetensors file, written atomically and named by the digest of its content: a file that is
not what was written is refused when it is read. The folder belongs to one run; another run is told which field differs.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from triptych import artifact
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.compress.quantize.storage import from_tensors, to_tensors
from triptych.errors import ArtifactError

PART = re.compile(r"(\d{5})-([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class Finished:
    """One block as it was journalled.

    Attributes:
        block: its name.
        quantized: the rounded weights by parameter name.
        dense: other parameters that compression changed (norms that scales were folded into).
        notes: what is known of each weight: its SQNR, tokens, remarks. JSON values.
    """

    block: str
    quantized: dict[str, QuantizedWeight]
    dense: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)


class Journal:
    """The finished blocks of one run, in a folder of its own.

    Attributes:
        notes: what is known of each finished weight.
    """

    def __init__(self, work: Path, identity: Mapping[str, artifact.JSON]) -> None:
        self.work = work
        artifact.claim(work, identity)
        self._parts: dict[str, Path] = {}  # block -> file
        self._where: dict[str, str] = {}  # weight -> block
        self._last: Finished | None = None
        self.notes: dict[str, dict[str, Any]] = {}
        for path in sorted(work.glob("*.safetensors")):
            if PART.fullmatch(path.name):
                self._enter(self._read(path), path)

    def __contains__(self, block: str) -> bool:
        return block in self._parts

    def __len__(self) -> int:
        return len(self._parts)

    def save(self, finished: Finished) -> None:
        """Journal one block; returns when it is on the disk."""
        tensors, meta = to_tensors(finished.quantized)
        tensors |= {f"dense:{name}": tensor.contiguous() for name, tensor in finished.dense.items()}
        header = {"block": finished.block, "meta": meta, "notes": finished.notes, "dense": sorted(finished.dense)}
        content = safetensors.torch.save(tensors, metadata={"triptych": json.dumps(header, sort_keys=True)})
        digest = hashlib.sha256(content).hexdigest()
        path = self.work / f"{len(self._parts):05d}-{digest}.safetensors"
        artifact.write_file(path, content)
        self._enter(finished, path)

    def read(self, block: str) -> Finished:
        """A finished block."""
        if self._last is None or self._last.block != block:
            self._last = self._read(self._parts[block])
        return self._last

    def weight(self, name: str) -> QuantizedWeight:
        """One finished weight."""
        return self.read(self._where[name]).quantized[name]

    def blocks(self) -> Iterator[Finished]:
        """Every finished block in the order in which it was finished; one at a time is in memory."""
        for block in self._parts:
            yield self.read(block)

    def clear(self) -> None:
        """Remove the folder, once what it led to is published."""
        shutil.rmtree(self.work)

    def _enter(self, finished: Finished, path: Path) -> None:
        self._parts[finished.block] = path
        self._where |= dict.fromkeys(finished.quantized, finished.block)
        self.notes |= json.loads(json.dumps(finished.notes, sort_keys=True))  # in the order in which they are read back
        self._last = finished

    def _read(self, path: Path) -> Finished:
        match = PART.fullmatch(path.name)
        content = path.read_bytes()
        if match is None or hashlib.sha256(content).hexdigest() != match[2]:
            raise ArtifactError(f"{path} is not what was written.", f"Remove {path.parent} to start over.")
        with safe_open(path, "pt") as stream:
            header = json.loads(stream.metadata()["triptych"])
        tensors = safetensors.torch.load(content)
        dense = {name: tensors[f"dense:{name}"] for name in header["dense"]}
        return Finished(header["block"], from_tensors(tensors, header["meta"]), dense, header["notes"])
