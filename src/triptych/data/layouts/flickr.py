"""Flickr8k and Flickr30k: captions by line, photos in a folder, splits as lists of photos (Hodosh et al. 2013).

    Flickr8k.token.txt           1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress is climbing up a set of stairs .
    captions.txt                 image,caption           the same as CSV, as Kaggle has it
    Flickr_8k.trainImages.txt    1000268201_693b08cb0e.jpg                       likewise devImages and testImages

Photos that no list names are left out where there are lists.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from triptych.data.layouts.captions import KINDS
from triptych.data.layouts.pictures import Pictures, find_pictures, folders
from triptych.data.table import Table, counted, read_csv, read_text, relative, table_of
from triptych.errors import InputError

LISTS = {"train": "*trainimages.txt", "valid": "*devimages.txt", "test": "*testimages.txt"}
Caption = tuple[int, str, str]  # line, photo, words


def read(path: Path) -> dict[str, Table] | None:
    """Captions by split.

    Raises:
        InputError: a line is not a caption, or no folder holds the photos.
    """
    if not path.is_dir():
        return None
    near = [path, *(f for f in sorted(path.iterdir()) if f.is_dir() and "flickr" in f.name.lower())]
    source = _one(near, "*.token.txt") or _one(near, "*.token") or _one(near, "captions.txt")
    if source is None or (source.name == "captions.txt" and not _is_table(source)):
        return None
    captions = list(_table_lines(source) if source.name == "captions.txt" else _token_lines(source))
    pictures = find_pictures([photo for _, photo, _ in captions], folders(path), source)
    lists = {split: file for split, mask in LISTS.items() if (file := _one(near, mask))}
    if not lists:
        return {"": _table(captions, pictures, path, source)}
    names = {split: set(read_text(file).split()) for split, file in lists.items()}
    left_out = len({photo for _, photo, _ in captions}.difference(*names.values()))
    notes = (f"{source.name}: {counted(left_out, 'photo')} that no list names left out.",) if left_out else ()
    tables = {}
    for split, file in lists.items():
        chosen = [caption for caption in captions if caption[1] in names[split]]
        if not chosen:
            raise InputError(
                f"No photo that {file} names has a caption in {source.name}.", "Do the two belong together?"
            )
        tables[split] = _table(chosen, pictures, path, source, notes)
    return tables


def _table(captions: list[Caption], pictures: Pictures, root: Path, source: Path, notes: tuple[str, ...] = ()) -> Table:
    columns: dict[str, list[str | None]] = {
        "image": [relative(pictures.file(photo), root) for _, photo, _ in captions],
        "caption": [words or None for _, _, words in captions],
        "image_id": [PurePath(photo).stem for _, photo, _ in captions],
    }
    lines = [line for line, _, _ in captions]
    return table_of(columns, KINDS, root=root, source=source, numbers=lines, unit="line", notes=notes)


def _token_lines(file: Path) -> Iterator[Caption]:
    """`photo#number<tab>words` by line."""
    for line, text in enumerate(read_text(file).split("\n"), 1):
        name, tab, words = text.partition("\t")
        photo, mark, number = name.rpartition("#")
        if text.strip() and not (tab and mark and number.isdecimal()):
            raise InputError(
                f"{file.name}, line {line} is not a photo, # and a number, a tab, and words.", "Mend the line."
            )
        if text.strip():
            yield line, photo, words.strip()


def _table_lines(file: Path) -> Iterator[Caption]:
    """`photo,words` by line, below a header."""
    table = read_csv(file)
    for line, photo, words in zip(table.numbers, table.column("image"), table.column("caption"), strict=True):
        yield line, photo or "", words or ""


def _is_table(file: Path) -> bool:
    """Whether a file is Kaggle's form."""
    with file.open("rb") as lines:
        return lines.readline(100).strip() == b"image,caption"


def _one(near: list[Path], mask: str) -> Path | None:
    """The first file whose name in small letters is as the mask says; lemmas of words are not captions."""
    files = (file for folder in near for file in sorted(folder.iterdir()) if "lemma" not in file.name)
    return next((file for file in files if fnmatchcase(file.name.lower(), mask)), None)
