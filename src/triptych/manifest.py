"""What a saved folder says of itself (its identity, size and SHA-256 of every file), and the check that it still holds.

The checksums notice damage and edits, not forgery: whoever can write a folder can also write its manifest.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple, NoReturn, TypeAlias

from triptych.errors import ArtifactError

JSON: TypeAlias = bool | int | float | str | list[Any] | tuple[Any, ...] | dict[str, Any] | None

MANIFEST = "manifest.json"
SCHEMA = 1
_MANIFEST_LIMIT = 64 * 2**20  # bytes; no real manifest comes near, and a forged one must not fill the memory
_BLANK = "0" * 64  # stands where the manifest's own checksum goes while that checksum is computed
_REMAKE = "Restore it from a copy, or make it again."


class FileRecord(NamedTuple):
    """What a manifest says of one file."""

    bytes: int
    sha256: str


class Manifest(NamedTuple):
    """The content of a manifest: what the folder is, every file by relative POSIX path, and its own checksum."""

    schema: int
    identity: dict[str, Any]
    files: dict[str, FileRecord]
    sha256: str

    @property
    def size_bytes(self) -> int:
        """The bytes of the listed files together."""
        return sum(record.bytes for record in self.files.values())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact, checked against its own checksum; the files it lists are not looked at.

    Raises:
        ArtifactError: no folder, no manifest, a damaged or edited one, a schema of another version, or a listed path
            that leaves the folder.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"There is no folder {folder}.", "Check the path.")
    if path.is_symlink() or not path.is_file():
        raise ArtifactError(f"{folder} has no {MANIFEST}: it is not an artifact, or not a whole one.", _REMAKE)
    try:
        with open_file(path) as stream:
            text = stream.read(_MANIFEST_LIMIT).decode()
        document = json.loads(text)
        schema, digest = document["schema"], str(document["sha256"])
        files = {str(name): FileRecord(int(r["bytes"]), str(r["sha256"])) for name, r in document["files"].items()}
        manifest = Manifest(SCHEMA, dict(document["identity"]), files, digest)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.", _REMAKE) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: it is not the JSON of a manifest ({error!r}).", _REMAKE) from error
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path} has schema {schema!r}; this version of Triptych reads {SCHEMA}.", "Update Triptych."
        )
    if _checksum(text, digest) != digest:
        raise ArtifactError(f"{path} is damaged or was edited: its own checksum does not match.", _REMAKE)
    for name in files:
        check_name(name, path)
    return manifest


def render(identity: Mapping[str, Any], files: Mapping[str, FileRecord]) -> str:
    """The text of a manifest. Its checksum is of the whole text with 64 zeros where the checksum stands."""
    records = {name: record._asdict() for name, record in files.items()}
    document = {"schema": SCHEMA, "identity": identity, "files": records, "sha256": _BLANK}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    head, _, tail = text.rpartition(_BLANK)  # the last key, so the last match is ours
    return f"{head}{_checksum(text, _BLANK)}{tail}"


def _checksum(text: str, digest: str) -> str:
    head, _, tail = text.rpartition(digest)
    return hashlib.sha256(f"{head}{_BLANK}{tail}".encode()).hexdigest()


def verify(folder: Path) -> Manifest:
    """Check every file of an artifact against its manifest, by size and SHA-256.

    Raises:
        ArtifactError: names the first file that is missing, extra, a link, of another size or of other content.
    """
    manifest = read_manifest(folder)
    try:
        found = list_files(folder)
        del found[MANIFEST]
        for name in sorted(found.keys() - manifest.files.keys()):
            raise ArtifactError(f"{folder / name} does not belong here: {MANIFEST} does not list it.", "Remove it.")
        for name in sorted(manifest.files.keys() - found.keys()):
            raise ArtifactError(f"{folder / name} is missing: {MANIFEST} lists it.", _REMAKE)
        for name, record in manifest.files.items():
            size = found[name].stat().st_size
            if size != record.bytes:
                what = f"{found[name]} is damaged: it has {size} bytes and should have {record.bytes}."
                raise ArtifactError(what, _REMAKE)
        for name, record in manifest.files.items():
            with open_file(found[name]) as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != record.sha256:
                    what = f"{found[name]} is damaged or was edited: its SHA-256 is not the manifest's."
                    raise ArtifactError(what, _REMAKE)
    except OSError as error:
        raise ArtifactError(f"{error.filename or folder} cannot be read: {error.strerror}.", _REMAKE) from error
    return manifest


def require_identity(place: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise an ArtifactError that names the first field in which the identity saved at `place` differs from ours."""
    difference = _difference(canonical(there), canonical(here), "")
    if difference is not None:
        field, old, new = difference
        raise ArtifactError(
            f"{place} was made from something else: {field} is {old} there and {new} here.",
            "Choose another output, or give the settings it was made with.",
        )


def canonical(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity as it will be read back: keys sorted, tuples as lists. NaN is refused: it never equals itself."""
    result: dict[str, Any] = json.loads(json.dumps(dict(identity), sort_keys=True, allow_nan=False))
    return result


def _difference(old: Any, new: Any, field: str) -> tuple[str, str, str] | None:
    """(field, old value, new value) of the first difference, in words; None where there is none."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            name = f"{field}.{key}" if field else key
            if key not in old or key not in new:
                return name, _short(old, key), _short(new, key)
            found = _difference(old[key], new[key], name)
            if found is not None:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        each = (_difference(a, b, f"{field}[{i}]") for i, (a, b) in enumerate(zip(old, new, strict=True)))
        return next((found for found in each if found is not None), None)
    return None if old == new else (field, _short([old], 0), _short([new], 0))


def _short(values: Any, key: Any) -> str:
    if isinstance(values, dict) and key not in values:
        return "absent"
    text = json.dumps(values[key], ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def list_files(folder: Path) -> dict[str, Path]:
    """Every file under `folder` by relative POSIX path, sorted. A link or a special file is an ArtifactError."""

    def stop(error: OSError) -> NoReturn:  # os.walk would pass over a folder it cannot read
        raise error

    found = {}
    for parent, folders, names in os.walk(folder, onerror=stop):
        for path in (Path(parent, name) for name in [*folders, *names]):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise ArtifactError(
                    f"{path} is a link; an artifact holds plain files only.", "Put the file itself there."
                )
            if stat.S_ISREG(mode):
                found[path.relative_to(folder).as_posix()] = path
            elif not stat.S_ISDIR(mode):
                raise ArtifactError(f"{path} is not a plain file.", "Remove it.")
    return dict(sorted(found.items()))


def open_file(path: Path) -> BufferedReader:
    """Open for reading, and never through a link that was put there since the folder was listed."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def check_name(name: str, where: Path) -> None:
    """Refuse a name that could lead out of its folder, here or on another system, or that is not in its plain form."""
    path = PurePosixPath(name)
    plain = bool(path.parts) and not path.is_absolute() and ".." not in path.parts and str(path) == name
    if not plain or "\\" in name or "\0" in name or PureWindowsPath(name).drive:
        raise ArtifactError(f"{where} names {name!r}, which is not a plain path inside the folder.", _REMAKE)
