"""Where the pictures that annotations name lie, and how large they are."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from triptych.data.decode import IMAGE_FORMATS, IMAGE_SUFFIXES
from triptych.data.table import counted
from triptych.errors import InputError

LOOKED_FOR = 20  # pictures by which their folder is known: a few may be missing
TURNED = (5, 6, 7, 8)  # values of the EXIF tag by which sides change places
ORIENTATION = 0x0112


class Pictures:
    """The pictures of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = {file.name for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}
        self._by_stem = {PurePosixPath(name).stem: name for name in sorted(self._names)}

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Path]:
        return (self.folder / name for name in sorted(self._names))

    def file(self, name: str) -> Path:
        """The picture of this name, or one of the same stem: photos.zip may hold WebP where captions say JPEG."""
        known = name in self._names or "/" in name
        return self.folder / (name if known else self._by_stem.get(PurePosixPath(name).stem, name))

    def has(self, name: str) -> bool:
        """Whether there is such a picture."""
        return self.file(name).is_file()


def find_pictures(names: Sequence[str], places: Iterable[Path], source: Path) -> Pictures:
    """The first of these folders that holds one of the first pictures that `source` names.

    Raises:
        InputError: none does.
    """
    for place in dict.fromkeys(places):
        found = Pictures(place)
        if any(found.has(name) for name in islice(names, LOOKED_FOR)):
            return found
    raise InputError(
        f"No folder beside {source} holds the pictures that it names (the first is {names[0] if names else 'missing'}).",
        "Put them into a folder called images beside it.",
    )


def folders(root: Path, depth: int = 2) -> list[Path]:
    """A folder and those in it, the nearest first."""
    level, found = [root], [root]
    for _ in range(depth):
        level = [inner for outer in level for inner in sorted(outer.iterdir()) if inner.is_dir()]
        found += level
    return found


def scale_of(file: Path, told: tuple[float, float]) -> tuple[float, float]:
    """Width and height of a picture over those that its boxes were drawn on; 1 where either is not known.

    Raises:
        InputError: one of the two lies on its side.
    """
    size = _size(file)
    if size is None or min(told) <= 0:
        return 1.0, 1.0
    if size != told and size == told[::-1]:
        raise InputError(
            f"{file} has {size[0]} x {size[1]} pixels; its boxes were drawn on {told[0]:g} x {told[1]:g}.",
            "Turn the picture or its boxes by a quarter.",
        )
    return size[0] / told[0], size[1] / told[1]


def scaling_note(name: str, scales: Iterable[tuple[float, float]]) -> tuple[str, ...]:
    """What a person should know where pictures have other sizes than their annotations."""
    scaled = [scale for scale in scales if scale != (1.0, 1.0)]
    if not scaled:
        return ()
    across, down = scaled[0]
    pictures = f"{counted(len(scaled), 'picture')} of another size than the annotations say"
    return (f"{name}: {pictures}; their boxes are scaled with them (the first by {across:.3g} x {down:.3g}).",)


def _size(file: Path) -> tuple[int, int] | None:
    """Width and height from the header, upright; None where the file is missing or damaged, which the data check tells."""
    from PIL import Image

    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            turned = image.getexif().get(ORIENTATION) in TURNED
            return (image.height, image.width) if turned else image.size
    except Exception:  # noqa: BLE001 - a damaged file may raise anything inside a decoder
        return None
