"""COCO: JSON files of images and their annotations, captions or boxes (Lin et al. 2014, cocodataset.org/#format-data).

    annotations/captions_train2017.json    annotations/instances_val2017.json    train2017/*.jpg    val2017/*.jpg
    train/_annotations.coco.json with the pictures beside it, as annotation tools export them

Of a file whose name says its split (`captions_train2017.json`) the other splits are read too. Crowds, which mark areas rather
than things, are left out.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from triptych.data.boxes import write_boxes
from triptych.data.layouts.pictures import Pictures, find_pictures, folders, scale_of, scaling_note
from triptych.data.layouts.split_folders import split_folders
from triptych.data.schema import SPLIT_NAMES
from triptych.data.table import Table, counted, read_text, relative, table_of
from triptych.errors import InputError

EXPORTED = "_annotations.coco.json"
NAMED = re.compile(r"(captions|instances)_([a-z]+)\d*", re.IGNORECASE)
CAPTIONS = {"image": "image:input", "caption": "text:target", "image_id": "category:group"}
BOXES = {"image": "image:input", "boxes": "boxes:target", "image_id": "category:group"}


def read(path: Path) -> dict[str, Table] | None:
    """Captions or boxes by split, of a folder or of one file.

    Raises:
        InputError: the folder holds both; a file is not JSON, or not COCO's; no folder holds the pictures.
    """
    files = _files(path)
    root = path if path.is_dir() else path.parent
    tables = {split: _table(file, root) for split, file in files.items()}
    return {split: table for split, table in tables.items() if table is not None}


def _files(path: Path) -> dict[str, Path]:
    """Annotation files by split; "" is the split of a file that names none."""
    if path.suffix.lower() == ".json":
        named = NAMED.fullmatch(path.stem)
        return _splits(path.parent, named[1]) if named and named[2] in SPLIT_NAMES else {"": path}
    exported = {split: folder / EXPORTED for split, folder in split_folders(path).items()}
    if any(file.is_file() for file in exported.values()):
        return {split: file for split, file in exported.items() if file.is_file()}
    for folder in (path, path / "annotations"):
        found = {kind: files for kind in ("captions", "instances") if (files := _splits(folder, kind))}
        if len(found) > 1:
            first = next(iter(found["captions"].values()))
            raise InputError(
                f"{folder} holds captions and boxes.",
                f"Give one of the files, as {first}: its other splits come with it.",
            )
        if found:
            return next(iter(found.values()))
    return {}


def _splits(folder: Path, kind: str) -> dict[str, Path]:
    """The files of a kind whose name says their split."""
    named = {file: NAMED.fullmatch(file.stem) for file in sorted(folder.glob(f"{kind}_*.json"))}
    return {SPLIT_NAMES[match[2]]: file for file, match in named.items() if match and match[2] in SPLIT_NAMES}


def _table(file: Path, root: Path) -> Table | None:
    """Captions or boxes, whichever the annotations are; None where it is some other JSON."""
    try:
        content = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}.", "Is the file whole? Fetch it again.") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        return None
    images: dict[Any, dict[str, Any]] = {}
    for i, image in enumerate(content["images"], 1):
        images[_field(image, "id", int | str, f"{file}, image {i}")] = image
        _field(image, "file_name", str, f"{file}, image {i}")
    names = [image["file_name"] for image in images.values()]
    pictures = find_pictures(names, _places(file), file)
    annotations = content["annotations"]
    told = any("caption" in annotation for annotation in annotations if isinstance(annotation, dict))
    return (_captions if told else _boxes)(content, images, pictures, root, file)


def _places(file: Path) -> Iterator[Path]:
    """Folders that may hold the pictures of a file: that of its split first."""
    above = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
    near = [*folders(file.parent, 1), *folders(above)]
    split = file.stem.partition("_")[2]
    yield from (folder for folder in near if split and folder.name in (split, split.rstrip("0123456789")))
    yield from near


def _captions(
    content: dict[str, Any], images: dict[Any, dict[str, Any]], pictures: Pictures, root: Path, file: Path
) -> Table:
    columns: dict[str, list[str | None]] = {name: [] for name in CAPTIONS}
    for annotation, image, where in _annotations(content, images, file):
        cell, stem = _named(pictures, image, root)
        columns["image"].append(cell)
        columns["caption"].append(_field(annotation, "caption", str, where) or None)
        columns["image_id"].append(stem)
    silent = len(images) - len(set(columns["image"]))
    notes = (f"{file.name}: {counted(silent, 'picture')} without a caption left out.",) if silent else ()
    return table_of(columns, CAPTIONS, root=root, source=file, unit="annotation", notes=notes)


def _boxes(
    content: dict[str, Any], images: dict[Any, dict[str, Any]], pictures: Pictures, root: Path, file: Path
) -> Table:
    labels = {_field(c, "id", int | str, f"{file}, a category"): c.get("name") for c in content.get("categories", [])}
    scales = {
        key: scale_of(pictures.file(i["file_name"]), (_side(i, "width"), _side(i, "height")))
        for key, i in images.items()
    }
    boxes: dict[Any, list[tuple[str, list[float]]]] = {key: [] for key in images}
    crowds = 0
    for annotation, image, where in _annotations(content, images, file):
        if annotation.get("iscrowd"):
            crowds += 1
            continue
        label = labels.get(annotation.get("category_id"))
        if not isinstance(label, str):
            known = f"category {annotation.get('category_id')!r}, which the file does not list"
            raise InputError(f"{where} names {known}.", "Add the category, or take the annotation out.")
        box = _field(annotation, "bbox", list, where)
        if len(box) != 4 or not all(isinstance(x, int | float) for x in box):
            raise InputError(f"{where}: its bbox is {box!r:.60}.", "Write [x, y, width, height] in pixels.")
        x, y, width, height = box
        sx, sy = scales[image["id"]]
        boxes[image["id"]].append((label, [x * sx, y * sy, (x + width) * sx, (y + height) * sy]))
    notes = scaling_note(file.name, scales.values())
    if crowds:
        notes += (f"{file.name}: {counted(crowds, 'crowd')} left out, which mark areas rather than things.",)
    named = [_named(pictures, image, root) for image in images.values()]
    columns = {
        "image": [cell for cell, _ in named],
        "boxes": [write_boxes(boxes[key]) for key in images],
        "image_id": [stem for _, stem in named],
    }
    return table_of(columns, BOXES, root=root, source=file, unit="image", notes=notes)


def _annotations(
    content: dict[str, Any], images: dict[Any, dict[str, Any]], file: Path
) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """Each annotation with its image, and how it is called in messages."""
    for i, annotation in enumerate(content["annotations"], 1):
        where = f"{file}, annotation {i}"
        key = _field(annotation, "image_id", int | str, where)
        if key not in images:
            raise InputError(f"{where} is of image {key!r}, which the file does not list.", "Add the image there.")
        yield annotation, images[key], where


def _named(pictures: Pictures, image: dict[str, Any], root: Path) -> tuple[str, str]:
    """The cell of a picture, and what its rows share."""
    cell = relative(pictures.file(image["file_name"]), root)
    return cell, str(PurePath(cell).with_suffix(""))


def _side(image: dict[str, Any], name: str) -> float:
    """A side of the picture that the boxes were drawn on; 0 where the file does not say it."""
    side = image.get(name)
    return float(side) if isinstance(side, int | float) else 0.0


def _field(item: Any, name: str, kind: Any, where: str) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get(name), kind):
        raise InputError(f"{where} has no {name}.", "Write the file as cocodataset.org/#format-data describes it.")
    return item[name]
