"""How bytes become durable: staged beside their place, flushed, moved there by one rename, by one writer at a time.

These are the steps that `triptych.artifact` is made of; everything else saves through that module.
"""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from triptych.errors import ArtifactError, InputError, Stopped

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}


def _before(step: str) -> None:
    """Called before every lock, write, fsync, rename and removal; tests replace it to stop the work at each point."""


def staging_place(target: Path) -> Path:
    """Where this process stages what will become `target`: beside it, so that the rename stays on one disk."""
    return target.with_name(f".{target.name}.staging-{os.getpid()}")


def discard(folder: Path) -> None:
    """Remove a folder so that a kill half-way leaves no half of it under its own name."""
    aside = staging_place(folder)
    _before(f"rename {folder.name} aside")
    folder.rename(aside)
    _before(f"remove {aside.name}")
    shutil.rmtree(aside)


def sweep(target: Path, *, siblings: bool = False) -> None:
    """Remove what killed writers of `target` staged; the caller holds its lock, so they are dead.

    With `siblings`, remove also the stagings and locks of all other names in the folder, where this lock covers them.
    """
    pattern = r"\..+\.(staging-\d+|lock)" if siblings else rf"\.{re.escape(target.name)}\.staging-\d+"
    for path in target.parent.iterdir():
        if re.fullmatch(pattern, path.name) and path != _lock_path(target):
            _before(f"remove {path.name}")
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def bytes_in(staging: Path) -> int:
    """Bytes staged so far, as far as they can be counted; for messages."""
    total = 0
    with suppress(OSError):
        for path in staging.rglob("*"):
            total += 0 if path.is_dir() else path.lstat().st_size
    return total


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably."""
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        _before(f"make {path}")
        path.mkdir(exist_ok=True)
        sync(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Put one file in the place of another, atomically. The caller holds the lock."""
    staging = staging_place(path)
    try:
        write_through(staging, content)
        rename(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def write_through(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    _before(f"write {path.name}")
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        _before(f"fsync {path.name}")
        os.fsync(stream.fileno())


def rename(staging: Path, target: Path) -> None:
    """The commit point. A folder replaces nothing but an empty folder, so what appeared meanwhile is not lost."""
    _before(f"rename {staging.name} to {target.name}")
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno in _OCCUPIED:
            raise ArtifactError(f"{target} appeared while it was being written.", "Choose another output.") from error
        raise
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to the disk."""
    _before(f"fsync {path.name}")
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def lock(target: Path, *, wait: bool) -> Iterator[None]:
    """Hold ``.<name>.lock`` beside `target`: the only writer, among threads and processes. A kill frees it."""
    path = _lock_path(target)
    handle = _locked(path, target, wait=wait)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        fcntl.flock(handle, fcntl.LOCK_UN)  # said aloud: a forked worker may still hold a copy of the handle
        os.close(handle)


def clear_lock(target: Path) -> None:
    """Remove the lock that a killed writer left beside `target`, unless a living one holds it."""
    if _lock_path(target).exists():
        with suppress(OSError, ArtifactError), lock(target, wait=False):
            pass


def _lock_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _locked(path: Path, target: Path, *, wait: bool) -> int:
    while True:
        _before(f"lock {path.name}")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle  # else: the lock of a file that its last holder has removed; take the new one
        except BlockingIOError:
            os.close(handle)
            what = f"{target} is being written by another process."
            raise ArtifactError(what, "Wait until it is done, or choose another output.") from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


@contextmanager
def explained(target: Path, needed: Callable[[], int]) -> Iterator[None]:
    """Turn a full disk and a lost permission into errors that name the path, and the bytes needed and free."""
    try:
        yield
    except Exception as error:
        number, why = _system_error(error)
        place = _place(error, target)
        if number in _FULL:
            parent = next(path for path in (place.absolute() / "_").parents if path.exists())
            elsewhere = "" if _is_part(place, target) else f" at {place}"
            need = f"it needs at least {needed()} bytes and " if needed() else ""
            free = f"{need}{shutil.disk_usage(parent).free} bytes are free"
            raise Stopped(
                f"{target} could not be written: {why}{elsewhere}; {free}.",
                "Nothing was lost; make room and run the same command again.",
            ) from error
        unnamed = isinstance(error, OSError) and error.filename is None  # of a socket or a signal, not of a file
        if number in _DENIED and not unnamed and _is_part(place, target):
            what = f"{target} cannot be written: {why}."
            raise InputError(what, "Choose another output, or change the permission.") from error
        raise


def _system_error(error: Exception) -> tuple[int, str]:
    """The errno of an exception, and its words; safetensors and tokenizers tell it in the text of theirs."""
    if isinstance(error, OSError):
        number = error.errno or 0
    else:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else 0
    return number, os.strerror(number)


def _place(error: Exception, target: Path) -> Path:
    name = getattr(error, "filename", None)
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else target


def _is_part(place: Path, target: Path) -> bool:
    """Whether a path is `target`, its parent, its staging or its lock; an unreadable input is none of these."""
    place, target = place.absolute(), target.absolute()
    if target.is_relative_to(place):
        return True
    if not place.is_relative_to(target.parent):
        return False
    first = place.relative_to(target.parent).parts[0]
    return first == target.name or first.startswith(f".{target.name}.")
