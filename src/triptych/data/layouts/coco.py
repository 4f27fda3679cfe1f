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
from typing import Any, NamedTuple

from triptych.data.boxes import write_boxes
from triptych.data.layouts.captions import CAPTION
from triptych.data.layouts.captions import KINDS as CAPTIONS
from triptych.data.layouts.pictures import Pictures, find_pictures, folders, scale_of, scaling_note
from triptych.data.layouts.split_folders import split_folders
from triptych.data.schema import SPLIT_NAMES
from triptych.data.table import Table, counted, read_text, relative, table_of
from triptych.errors import InputError

EXPORTED = "_annotations.coco.json"
NAMED = re.compile(r"(captions|instances)_([a-z]+)\d*", re.IGNORECASE)
KINDS = {"captions": CAPTION, "instances": "boxes"}  # of files, and what they answer
BOXES = {"image": "image:input", "boxes": "boxes:target", "image_id": "category:group"}


class Image(NamedTuple):
    """A picture as a file lists it; a side is 0 where it does not say it."""

    name: str
    width: float
    height: float


Images = dict[int | str, Image]


def read(path: Path, target: str | None = None) -> dict[str, Table] | None:
    """Captions or boxes by split, of a folder or of one file; of a folder that holds both, what is to be predicted.

    Raises:
        InputError: the folder holds both, and the target is neither; a file is not JSON, or not COCO's; no folder holds the pictures.
    """
    files = _files(path, target)
    root = path if path.is_dir() else path.parent
    tables = {split: _table(file, root) for split, file in files.items()}
    return {split: table for split, table in tables.items() if table is not None}


def _files(path: Path, target: str | None) -> dict[str, Path]:
    """Annotation files by split; "" is the split of a file that names none."""
    if path.suffix.lower() == ".json":
        named = NAMED.fullmatch(path.stem)
        return _splits(path.parent, named[1]) if named and named[2] in SPLIT_NAMES else {"": path}
    exported = {split: folder / EXPORTED for split, folder in split_folders(path).items()}
    if any(file.is_file() for file in exported.values()):
        return {split: file for split, file in exported.items() if file.is_file()}
    for folder in (path, path / "annotations"):
        found = {answer: files for kind, answer in KINDS.items() if (files := _splits(folder, kind))}
        if len(found) > 1 and target not in found:
            first = next(iter(found[CAPTION].values()))
            raise InputError(
                f"{folder} holds captions and boxes.",
                f"Say which is the target, caption or boxes, or give one of the files, as {first}: its other splits come with it.",
            )
        if found:
            return found.get(target or "") or next(iter(found.values()))
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
    if not isinstance(content, dict):
        return None
    content.setdefault("categories", [])
    if not all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
        return None
    images: Images = {}
    for i, item in enumerate(content["images"], 1):
        where = f"{file}, image {i}"
        name, sides = _field(item, "file_name", str, where), (item.get("width"), item.get("height"))
        images[_field(item, "id", int | str, where)] = Image(
            name, *(x if isinstance(x, int | float) else 0 for x in sides)
        )
    pictures = find_pictures([image.name for image in images.values()], _places(file), file)
    told = any("caption" in item for item in content["annotations"] if isinstance(item, dict))
    return (_captions if told else _boxes)(content, images, pictures, root, file)


def _places(file: Path) -> Iterator[Path]:
    """Folders that may hold the pictures of a file: that of its split first."""
    above = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
    near = [*folders(file.parent, 1), *folders(above)]
    split = file.stem.partition("_")[2]
    yield from (folder for folder in near if split and folder.name in (split, split.rstrip("0123456789")))
    yield from near


def _captions(content: dict[str, Any], images: Images, pictures: Pictures, root: Path, file: Path) -> Table:
    cells = {key: relative(pictures.file(image.name), root) for key, image in images.items()}
    columns: dict[str, list[str | None]] = {name: [] for name in CAPTIONS}
    for key, annotation, where in _annotations(content, images, file):
        columns["image"].append(cells[key])
        columns["caption"].append(_field(annotation, "caption", str, where) or None)
        columns["image_id"].append(_shared(cells[key]))
    silent = len(images) - len(set(columns["image"]))
    notes = (f"{file.name}: {counted(silent, 'picture')} without a caption left out.",) if silent else ()
    return table_of(columns, CAPTIONS, root=root, source=file, unit="annotation", notes=notes)


def _boxes(content: dict[str, Any], images: Images, pictures: Pictures, root: Path, file: Path) -> Table:
    names = {_field(item, "id", int | str, f"{file}, a category"): item.get("name") for item in content["categories"]}
    files = {key: pictures.file(image.name) for key, image in images.items()}
    scales = {key: scale_of(files[key], (image.width, image.height)) for key, image in images.items()}
    boxes: dict[int | str, list[tuple[str, list[float]]]] = {key: [] for key in images}
    crowds = 0
    for key, annotation, where in _annotations(content, images, file):
        if annotation.get("iscrowd"):
            crowds += 1
            continue
        category = _field(annotation, "category_id", int | str, where)
        if not isinstance(names.get(category), str):
            raise InputError(
                f"{where} is of category {category!r}, which the file does not list.", "Add the category there."
            )
        box = _field(annotation, "bbox", list, where)
        if len(box) != 4 or not all(isinstance(x, int | float) for x in box):
            raise InputError(f"{where}: its bbox is {box!r:.60}.", "Write [x, y, width, height] in pixels.")
        x, y, width, height = box
        across, down = scales[key]
        boxes[key].append((names[category], [x * across, y * down, (x + width) * across, (y + height) * down]))
    notes = scaling_note(file.name, scales.values())
    if crowds:
        notes += (f"{file.name}: {counted(crowds, 'crowd')} left out, which mark areas rather than things.",)
    cells = [relative(picture, root) for picture in files.values()]
    columns = {"image": cells, "boxes": list(map(write_boxes, boxes.values())), "image_id": list(map(_shared, cells))}
    return table_of(columns, BOXES, root=root, source=file, unit="image", notes=notes)


def _annotations(
    content: dict[str, Any], images: Images, file: Path
) -> Iterator[tuple[int | str, dict[str, Any], str]]:
    """The key of each annotation's image, the annotation, and how it is called in messages."""
    for i, annotation in enumerate(content["annotations"], 1):
        where = f"{file}, annotation {i}"
        key = _field(annotation, "image_id", int | str, where)
        if key not in images:
            raise InputError(f"{where} is of image {key!r}, which the file does not list.", "Add the image there.")
        yield key, annotation, where


def _shared(cell: str) -> str:
    """What the rows of a picture share."""
    return str(PurePath(cell).with_suffix(""))


def _field(item: Any, name: str, kind: Any, where: str) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get(name), kind):
        raise InputError(f"{where} has no {name}.", "Write the file as cocodataset.org/#format-data describes it.")
    return item[name]
