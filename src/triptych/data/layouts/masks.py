"""Pictures and masks of the same name in folders beside each other, with or without a folder per split.

    train/a.jpg           trainannot/a.png     as CamVid comes with SegNet
    images/a.jpg          masks/a.png          or labels, or annotations; each may hold train, val and test
    train/images/a.jpg    train/masks/a.png

A picture that has no mask has an empty cell, which the data check tells.
"""

from collections.abc import Iterator
from pathlib import Path

from triptych.data.layouts.pictures import Pictures
from triptych.data.layouts.split_folders import split_folders
from triptych.data.table import Table, counted, relative, table_of

KINDS = {"image": "image:input", "mask": "mask:target"}
MASKS = ("masks", "mask", "labels", "annotations")


def read(path: Path) -> dict[str, Table] | None:
    """Pictures with their masks by split; a picture that has none has an empty cell."""
    pairs = {split: (Pictures(images), Pictures(masks)) for split, images, masks in _pairs(path)}
    return {split: _table(*pair, path) for split, pair in pairs.items() if all(map(len, pair))} or None


def _pairs(path: Path) -> Iterator[tuple[str, Path, Path]]:
    """Split, folder of pictures, folder of masks."""
    for split, folder in split_folders(path).items():
        if (masks := folder.with_name(folder.name + "annot")).is_dir():
            yield split, folder, masks
        yield from _beside(folder, split)
    for images, masks in ((images, masks) for _, images, masks in _beside(path, "")):
        inner = {split: (f, masks / f.name) for split, f in split_folders(images).items() if (masks / f.name).is_dir()}
        yield from ((split, *pair) for split, pair in inner.items())
        if not inner:
            yield "", images, masks


def _beside(folder: Path, split: str) -> Iterator[tuple[str, Path, Path]]:
    """`images` with the first kind of folder for masks."""
    found = [folder / name for name in MASKS if (folder / name).is_dir()]
    if (folder / "images").is_dir() and found:
        yield split, folder / "images", found[0]


def _table(images: Pictures, masks: Pictures, root: Path) -> Table:
    """A row a picture, in the order of their names."""
    columns: dict[str, list[str | None]] = {name: [] for name in KINDS}
    for image in images:
        mask = masks.file(image.name)
        columns["image"].append(relative(image, root))
        columns["mask"].append(relative(mask, root) if mask.is_file() else None)
    lonely = len(masks) - sum(cell is not None for cell in columns["mask"])
    notes = (f"{masks.folder.name}: {counted(lonely, 'mask')} without a picture left out.",) if lonely else ()
    return table_of(columns, KINDS, root=root, source=images.folder, notes=notes)
