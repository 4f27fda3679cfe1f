"""What waiting samples hold, in memory within a limit and on disk beyond it.

Samples that walk through a model in lockstep (`lockstep`) are coroutines, and what one holds while it waits are tensors in
the middle of somebody's forward. Every operation is watched: tensors that coroutines make are counted, the storages that
were not touched for longest are written to files and emptied when there are too many bytes of them, and an operation that is
given an emptied one finds it filled again. So results are the same to the bit, and no model's code knows.
"""

import ctypes
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from greenlet import getcurrent
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SMALL = 1 << 12  # bytes of a storage that is left alone


class Offload(TorchDispatchMode):
    """While this is entered, coroutines' tensors beyond `limit` bytes are on disk.

    Attributes:
        folder: where the files are; made when there is one, and removed with them.
        limit: bytes of coroutines' tensors that may be in memory.
        written: bytes that were written so far.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        super().__init__()
        self.folder, self.limit, self.written = folder, limit, 0
        self._home = getcurrent()  # what is made here is the driver's, not a sample's
        # Storages by address, and their bytes; those in memory with the one touched last at the end.
        self._held: OrderedDict[int, tuple[StorageWeakRef, int]] = OrderedDict()
        self._away: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes = 0  # of what is held

    def __exit__(self, *error: object) -> None:
        """Fill every storage again that somebody still holds."""
        super().__exit__(*error)
        for key in list(self._away):
            self._bring(key)
        shutil.rmtree(self.folder, ignore_errors=True)  # none where nothing was written

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for key in given & self._away.keys():
            self._bring(key)
        for key in given & self._held.keys():
            self._held.move_to_end(key)
        result = func(*args, **(kwargs or {}))
        if getcurrent() is not self._home:
            for x in tree_leaves(result):
                if isinstance(x, Tensor) and x.device.type == "cpu":
                    given.add(self._note(x.untyped_storage(), given))
        self._make_room(given)
        return result

    def _note(self, storage: torch.UntypedStorage, given: set[int]) -> int:
        """Count a storage that was made just now; not one that the operation was given."""
        key = storage._cdata
        if key not in given and storage.nbytes() > SMALL:
            self._held[key] = StorageWeakRef(storage), storage.nbytes()
            self._bytes += storage.nbytes()
        return key

    def _make_room(self, touched: set[int]) -> None:
        """Put away what was not touched for longest, and forget what is gone."""
        if self._bytes <= self.limit:
            return
        for key in [key for key, (reference, _) in self._held.items() if reference.expired()]:
            self._bytes -= self._held.pop(key)[1]
        for key in [key for key, (reference, _) in self._away.items() if reference.expired()]:
            del self._away[key]
            self._file(key).unlink()
        for key in [key for key in self._held if key not in touched]:
            if self._bytes <= self.limit:
                return
            reference, size = self._held.pop(key)
            self._bytes -= size
            storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
            if storage.resizable():  # else somebody else, NumPy for one, has its address
                self.folder.mkdir(exist_ok=True)
                self._file(key).write_bytes(_bytes(storage))
                storage.resize_(0)
                self._away[key] = reference, size
                self.written += size

    def _bring(self, key: int) -> None:
        """Fill a storage again."""
        reference, size = self._away.pop(key)
        if not reference.expired():
            storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
            storage.resize_(size)
            with self._file(key).open("rb") as file:
                file.readinto(_bytes(storage))
            self._held[key] = reference, size
            self._bytes += size
        self._file(key).unlink()

    def _file(self, key: int) -> Path:
        return self.folder / f"{key:x}"


def _bytes(storage: torch.UntypedStorage) -> memoryview:
    return memoryview((ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())).cast("B")
