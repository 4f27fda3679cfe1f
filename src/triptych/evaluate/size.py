"""Bytes on the disk: what a model takes, and what is free."""

import shutil
from pathlib import Path

from triptych.errors import InputError


def size_bytes(folder: Path) -> int:
    """The bytes of all files under a folder (or of one file): what a copy of it takes, tokenizer and manifest included.

    A link counts as the file it leads to, because a Hugging Face cache holds its models as links.

    Raises:
        InputError: there is nothing there, or a link leads nowhere.
    """
    if not folder.exists():
        raise InputError(f"There is no file or folder {folder}.", "Check the path.")
    if folder.is_file():
        return folder.stat().st_size
    total = 0
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path} is a link to a file that is not there.", "Download the model again.")
        total += path.stat().st_size if path.is_file() else 0
    return total


def free_bytes(path: Path) -> int:
    """The bytes that may still be written where `path` is, or will be once its folders are made."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
