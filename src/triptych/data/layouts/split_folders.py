"""A folder per split with a folder per class in each, as ImageNet: `train/n01440764/*.JPEG`, `val/n01440764/*.JPEG`."""

from dataclasses import replace
from pathlib import Path

from triptych.data.schema import SPLIT_NAMES
from triptych.data.table import MEDIA_SUFFIXES, Table, counted, read_folder

NOT_CLASSES = {"images", "labels", "masks", "annotations"}


def read(path: Path) -> dict[str, Table] | None:
    """One table a split, with columns `file` and `label`; media that lie in no class folder are left out."""
    parts = split_folders(path)
    if "train" not in parts or not _classes(parts["train"]):
        return None
    tables = {split: read_folder(folder) for split, folder in parts.items() if _classes(folder)}
    loose = {folder.name: _media_in(folder) for folder in parts.values() if _media_in(folder)}
    notes = tuple(f"{name}: {counted(n, 'file')} without a class folder left out." for name, n in loose.items())
    return {split: replace(table, notes=notes) for split, table in tables.items()}


def split_folders(path: Path) -> dict[str, Path]:
    """The folders that are named for a split, by split."""
    if not path.is_dir():
        return {}
    found = (folder for folder in sorted(path.iterdir()) if folder.is_dir())
    return {SPLIT_NAMES[folder.name.lower()]: folder for folder in found if folder.name.lower() in SPLIT_NAMES}


def _classes(folder: Path) -> list[Path]:
    inner = [f for f in sorted(folder.iterdir()) if f.is_dir() and f.name.lower() not in NOT_CLASSES]
    return [f for f in inner if any(file.suffix.lower() in MEDIA_SUFFIXES for file in f.rglob("*"))]


def _media_in(folder: Path) -> int:
    return sum(file.suffix.lower() in MEDIA_SUFFIXES for file in folder.iterdir())
