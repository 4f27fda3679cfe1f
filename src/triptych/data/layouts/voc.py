"""Pascal VOC: an XML file of boxes a picture (Everingham et al. 2010, host.robots.ox.ac.uk/pascal/VOC).

    Annotations/2007_000027.xml    JPEGImages/2007_000027.jpg    ImageSets/Main/train.txt, val.txt, test.txt

Corners are written as pixels counted from 1 that belong to the box; here they become half-open: xmin - 1, ymin - 1, xmax, ymax.
Lists of single classes are not read, and objects marked difficult are kept as any other.
"""

from pathlib import Path
from xml.etree import ElementTree as ET

from triptych.data.boxes import write_boxes
from triptych.data.layouts.pictures import Pictures, find_pictures, folders, scale_of, scaling_note
from triptych.data.schema import SPLIT_NAMES
from triptych.data.table import Table, read_text, relative, table_of
from triptych.errors import InputError

KINDS = {"image": "image:input", "boxes": "boxes:target", "image_id": "category:group"}
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(path: Path) -> dict[str, Table] | None:
    """Boxes by split, as the lists in ImageSets/Main say; a picture in a list that has no XML file has an empty cell.

    Raises:
        InputError: several years in one folder, an XML file that cannot be read, or no folder with the pictures.
    """
    found = _annotations(path)
    if len(found) > 1:
        raise InputError(
            f"{path} holds {len(found)} sets of annotations ({', '.join(str(f.parent) for f in found)}).",
            "Give one of them.",
        )
    if not found:
        return None
    root = found[0].parent
    files = {file.stem: file for file in sorted(found[0].glob("*.xml"))}
    places = [root / "JPEGImages", root / "images", *folders(root, 1)]
    pictures = find_pictures([f"{name}.jpg" for name in files], [place for place in places if place.is_dir()], found[0])
    lists = _lists(root)
    if not lists:
        return {"": _table(list(files), files, pictures, root, found[0])}
    return {split: _table(read_text(names).split("\n"), files, pictures, root, names) for split, names in lists.items()}


def _annotations(path: Path) -> list[Path]:
    """Folders of XML files: of `path`, or of the years in it."""
    for mask in ("[Aa]nnotations", "*/Annotations", "VOCdevkit/*/Annotations"):
        found = [folder for folder in sorted(path.glob(mask)) if next(folder.glob("*.xml"), None)]
        if found:
            return found
    return []


def _lists(root: Path) -> dict[str, Path]:
    """The lists of pictures by split; `trainval` is for training where no list is for that alone."""
    files = {file.stem: file for file in sorted((root / "ImageSets" / "Main").glob("*.txt"))}
    named = {SPLIT_NAMES[stem]: file for stem, file in files.items() if stem in SPLIT_NAMES}
    return named if "train" in named or "trainval" not in files else {"train": files["trainval"], **named}


def _table(lines: list[str], files: dict[str, Path], pictures: Pictures, root: Path, source: Path) -> Table:
    """A row a line that names a picture."""
    columns: dict[str, list[str | None]] = {name: [] for name in KINDS}
    scales, numbers = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = line.split()[0]
        picture = pictures.file(f"{name}.jpg")
        columns["image"].append(relative(picture, root))
        columns["image_id"].append(name)
        boxes = None
        if name in files:
            boxes, scale = _boxes(files[name], picture)
            scales.append(scale)
        columns["boxes"].append(boxes)
        numbers.append(number)
    unit = "line" if source.is_file() else "file"
    notes = scaling_note(source.name, scales)
    return table_of(columns, KINDS, root=root, source=source, numbers=numbers, unit=unit, notes=notes)


def _boxes(file: Path, picture: Path) -> tuple[str, tuple[float, float]]:
    """The cell of an XML file, in pixels of the picture as it is, and by how much that differs from what was annotated."""
    try:
        annotation = ET.fromstring(file.read_bytes())  # noqa: S314 - expat loads nothing from outside and limits how far entities grow
    except ET.ParseError as error:
        raise InputError(f"{file} is not XML: {error}.", "Is the file whole? Fetch it again.") from error
    size = annotation.find("size")
    told = (_number(size, "width", file), _number(size, "height", file)) if size is not None else (0.0, 0.0)
    across, down = scale_of(picture, told)
    boxes: list[tuple[str, list[float]]] = []
    for i, thing in enumerate(annotation.iterfind("object"), 1):
        label, box = (thing.findtext("name") or "").strip(), thing.find("bndbox")
        if not label or box is None:
            raise InputError(f"{file}, object {i} has no {'bndbox' if label else 'name'}.", "Add it.")
        x0, y0, x1, y1 = (_number(box, corner, file) for corner in CORNERS)
        x0, y0 = x0 - (x0 >= 1), y0 - (y0 >= 1)  # tools that count from 0 write 0 for the edge
        boxes.append((label, [x0 * across, y0 * down, x1 * across, y1 * down]))
    return write_boxes(boxes), (across, down)


def _number(element: ET.Element, name: str, file: Path) -> float:
    text = element.findtext(name)
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"{file}: the {name} of a {element.tag} is {text!r}, not a number.", "Mend it.") from None
