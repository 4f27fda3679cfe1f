"""The one door through which everything is saved: staged beside its place, made durable, listed, moved by one rename.

Whatever happens on the way (an exception, a full disk, ``kill -9``) the target holds its old content or its new, whole,
never a mixture. Reading goes through `verify`, which refuses a folder of which a single bit is not what was written.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from triptych.durable import (
    bytes_in,
    clear_lock,
    discard,
    explained,
    lock,
    make_folder,
    rename,
    replace,
    staging_place,
    sweep,
    sync,
    write_through,
)
from triptych.errors import ArtifactError
from triptych.manifest import (
    JSON,
    MANIFEST,
    FileRecord,
    Manifest,
    canonical,
    check_name,
    list_files,
    open_file,
    read_manifest,
    render,
    require_identity,
    verify,
)

__all__ = [
    "JSON",
    "MANIFEST",
    "Manifest",
    "alone",
    "claim",
    "existing",
    "latest_generation",
    "publish",
    "read_manifest",
    "require_identity",
    "save_generation",
    "verify",
    "write_file",
]

CURRENT = "CURRENT"

_log = logging.getLogger(__name__)


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold `target` against other writers for longer than publishing takes; `publish` is told so by `held`.

    Raises:
        ArtifactError: another process is at it.
        Stopped, InputError: as `publish`.
    """
    target = target.resolve()
    with explained(target, lambda: 0):
        make_folder(target.parent)
        with lock(target, wait=False):
            yield


@contextmanager
def publish(target: Path, identity: Mapping[str, Any], *, needs: int = 0, held: bool = False) -> Iterator[Path]:
    """Give a staging folder to fill, and publish it whole as `target` when the block ends without an exception.

    Every file is flushed to the disk and listed in ``manifest.json`` before the one rename that publishes. On an
    exception nothing is published and the staging is removed; what a killed process left is removed when its target is
    next published.

    Args:
        target: the folder to make; it must not exist, or be empty. Missing parents are made.
        identity: what the artifact is made from, in JSON values; `existing` compares it.
        needs: bytes the artifact will take, where known: checked against the free space before the work.
        held: whether the caller holds `target` by `alone`.

    Raises:
        ArtifactError: `target` exists, another writer is at it, or what was staged cannot be published (a link, a
            file called manifest.json).
        Stopped: the disk is full; names the bytes needed and free. Nothing is published, and the same command may run
            again.
        InputError: the place cannot be written.
    """
    target = target.resolve()
    wanted = canonical(identity)
    staging = staging_place(target)
    with explained(target, lambda: needs):
        make_folder(target.parent)
        if needs > shutil.disk_usage(target.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with nullcontext() if held else lock(target, wait=False):
            if existing(target, wanted):
                raise ArtifactError(f"{target} already holds this artifact.", "Use it, or choose another output.")
            sweep(target)
            try:
                with explained(target, lambda: max(needs, bytes_in(staging))):
                    make_folder(staging)
                    yield staging
                    _seal(staging, wanted)
                    rename(staging, target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)  # gone already where it was published


def existing(target: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a whole artifact of this identity stands at `target`; False where there is nothing, or an empty folder.

    Raises:
        ArtifactError: something else stands there (a file, a folder without a manifest, an artifact of another
            identity: the message names the field that differs, and both values), or the artifact is damaged.
    """
    if not target.exists() and not target.is_symlink():
        return False
    if not target.is_dir():
        raise ArtifactError(f"{target} is not a folder.", "Choose another output; nothing is overwritten.")
    if not any(target.iterdir()):
        return False
    if not (target / MANIFEST).is_file():
        raise ArtifactError(
            f"{target} holds files but no {MANIFEST}, so it is not a whole artifact.",
            "Choose another output, or remove the folder; nothing is overwritten.",
        )
    require_identity(target, read_manifest(target).identity, identity)
    verify(target)
    clear_lock(target)  # a kill between the rename and the release leaves it
    return True


def claim(work: Path, identity: Mapping[str, JSON]) -> None:
    """Make `work` the folder of one run's unfinished pieces, or see that it is: pieces of two runs must not mix.

    Raises:
        ArtifactError: the folder belongs to another run; names the field that differs, and both values.
    """
    note = work / "identity.json"
    if note.exists():
        require_identity(work, json.loads(note.read_text(encoding="utf-8")), identity)
        return
    make_folder(work)
    write_file(note, json.dumps(canonical(identity), ensure_ascii=False))


def write_file(path: Path, data: bytes | str) -> None:
    """Write one file atomically and durably: a reader, or a kill, finds the old content or the new, whole.

    Writers of one file wait for each other, and the last one stays. Text is written as UTF-8. Missing parents are made.

    Raises:
        Stopped: the disk is full; the old content stays.
        InputError: the place cannot be written.
    """
    content = data.encode() if isinstance(data, str) else data
    with explained(path, lambda: len(content)):
        make_folder(path.parent)
        with lock(path, wait=True):
            sweep(path)
            replace(path, content)


def save_generation(folder: Path, name: str, write: Callable[[Path], None], *, keep: int = 2, needs: int = 0) -> Path:
    """Publish ``folder/name``, make it current by replacing ``folder/CURRENT``, then remove the oldest generations.

    The folder belongs to its generations alone. A name stands for its content: a whole generation of this name is kept
    as it is, without calling `write`, so that a save that was cut short before ``CURRENT`` is completed by the next.

    Args:
        folder: where the generations live; made if missing.
        name: one path component, for example "step-000100".
        write: fills the staging folder it is given.
        keep: how many generations stay, this one included.
        needs: as `publish`.

    Raises:
        ArtifactError: another writer is saving here.
        Stopped, InputError: as `publish`.
    """
    if keep < 1 or "/" in name or name.startswith("."):
        raise ValueError(f"keep must be at least 1 and the name one visible path component, not {keep} and {name!r}")
    check_name(name, folder)
    folder = folder.resolve()
    target = folder / name
    with explained(folder, lambda: 0):
        make_folder(folder)
        with lock(folder / CURRENT, wait=False):
            sweep(folder / CURRENT, siblings=True)
            whole = _identity(target)
            if whole is None or whole.get("generation") != name:
                if whole is None and (target / MANIFEST).is_file():
                    discard(target)
                number = 1 + max((n for n, _ in _generations(folder)), default=0)
                with publish(target, {"generation": name, "number": number}, needs=needs) as staging:
                    write(staging)
            replace(folder / CURRENT, f"{name} {read_manifest(target).sha256}\n".encode())
            others = [other for number, other in _generations(folder) if number and other != name]
            for other in others[: max(0, len(others) - (keep - 1))]:
                discard(folder / other)
    return target


def latest_generation(folder: Path) -> Path | None:
    """The current generation, verified; where it is damaged, the newest whole one before it, with a warning in the log.

    Returns None where nothing was ever saved.

    Raises:
        ArtifactError: there are generations and none is whole. Starting over would hide that, so a person decides.
    """
    if not folder.is_dir():
        return None
    damage: list[ArtifactError] = []
    current, checksum = "", ""
    try:
        current, checksum = _read_current(folder)
    except ArtifactError as error:
        damage.append(error)
    older = [name for _, name in reversed(_generations(folder)) if name != current]
    for name in [current, *older] if current else older:
        try:
            _verify_generation(folder / name, checksum if name == current else None)
        except ArtifactError as error:
            damage.append(error)
            continue
        if damage:
            _log.warning("%s Going on from %s instead.", damage[0].what, folder / name)
        return folder / name
    if damage:
        raise ArtifactError(f"No generation in {folder} is whole. {damage[0].what}", "Remove the folder to start over.")
    return None


def _verify_generation(folder: Path, checksum: str | None) -> None:
    if checksum not in {None, verify(folder).sha256}:
        raise ArtifactError(f"{folder / MANIFEST} is not the one that {CURRENT} names.")


def _read_current(folder: Path) -> tuple[str, str]:
    """The name and the manifest checksum in ``CURRENT``; both empty where nothing was made current yet."""
    path = folder / CURRENT
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return "", ""
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}.") from error
    found = re.fullmatch(r"([^./\\\n][^/\\\n]*) ([0-9a-f]{64})\n", text)
    if found is None:
        raise ArtifactError(f"{path} is damaged: it should hold a name and a checksum.")
    return found[1], found[2]


def _generations(folder: Path) -> list[tuple[int, str]]:
    """(number, name) of every generation, oldest first; number 0 where a damaged manifest cannot tell."""
    found = []
    for path in folder.iterdir():
        if not path.name.startswith(".") and (path / MANIFEST).is_file():
            try:
                identity = read_manifest(path).identity
            except ArtifactError:
                identity = {"generation": path.name, "number": 0}
            if identity.get("generation") == path.name:
                found.append((int(identity["number"]), path.name))
    return sorted(found)


def _identity(folder: Path) -> dict[str, Any] | None:
    """The identity of a whole artifact; None where there is none, or a damaged one."""
    try:
        return verify(folder).identity
    except ArtifactError:
        return None


def _seal(staging: Path, identity: Mapping[str, Any]) -> None:
    """Flush every staged file and folder, and write the manifest that lists them."""
    found = list_files(staging)
    if MANIFEST in found:
        raise ArtifactError(f"{found[MANIFEST]} was staged, but that name is the manifest's own.", "Use another name.")
    records = {}
    for name, path in found.items():
        check_name(name, staging)
        sync(path)
        with open_file(path) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            records[name] = FileRecord(os.fstat(stream.fileno()).st_size, digest)
    write_through(staging / MANIFEST, render(identity, records).encode())
    for parent, _, _ in os.walk(staging, topdown=False):
        sync(Path(parent))
