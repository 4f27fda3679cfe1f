"""Tables from disk: CSV, TSV, Parquet, JSON lines, a folder per class, a Hugging Face dataset directory.

Cells of CSV files stay strings; what they mean is the schema's business. An empty cell is a missing one, and nothing
else is: "null", "NA" and "None" are words (the first is German for zero).
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from triptych.data.decode import AUDIO_SUFFIXES, IMAGE_SUFFIXES, MEDIA, VIDEO_SUFFIXES
from triptych.errors import InputError

MEDIA_SUFFIXES = frozenset[str]().union(*MEDIA.values())


@dataclass(frozen=True, eq=False)
class Table:
    """Rows with named columns, and enough memory of where they came from to name a row in a message.

    Attributes:
        rows: the cells.
        root: the folder that relative media paths start from.
        source: the file or folder the table was read from.
        sha256: hash of the source's bytes, and of the choice of rows if there was one.
        numbers: the line (or row, counted from 1) of each row in the source.
        unit: what `numbers` count, "line" or "row".
        kinds: what the layout that the rows come from says of its columns, as a schema.yaml would.
        notes: what a person should know of how the rows were read.
    """

    rows: pa.Table
    root: Path
    source: Path
    sha256: str
    numbers: tuple[int, ...] = field(repr=False)
    unit: str = "row"
    kinds: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return list(self.rows.column_names)

    def row(self, i: int) -> dict[str, Any]:
        """The cells of row `i` (from 0) by column; None where a cell is missing."""
        return {name: self.rows.column(name)[i].as_py() for name in self.names}

    def column(self, name: str) -> list[Any]:
        """The cells of a column; None where a cell is missing."""
        return list(self.rows.column(name).to_pylist())

    def take(self, indices: Sequence[int]) -> "Table":
        """The rows at these places (from 0), in this order."""
        chosen = [int(i) for i in indices]
        digest = hashlib.sha256(f"{self.sha256}:{chosen}".encode()).hexdigest()
        numbers = tuple(self.numbers[i] for i in chosen)
        return replace(self, rows=self.rows.take(pa.array(chosen, pa.int64())), sha256=digest, numbers=numbers)

    def place(self, i: int) -> str:
        """Where row `i` stands, as "train.csv, line 17"."""
        return f"{self.source.name}, {self.unit} {self.numbers[i]}"

    def places(self, indices: Sequence[int], most: int = 8) -> str:
        """Where several rows stand, as "train.csv, lines 3, 17, 20 and 5 more"."""
        if len(indices) == 1:
            return self.place(indices[0])
        shown = [str(self.numbers[i]) for i in indices[:most]]
        rest = f" and {len(indices) - most} more" if len(indices) > most else ""
        return f"{self.source.name}, {self.unit}s {', '.join(shown)}{rest}"


def read_table(path: Path) -> Table:
    """Read a table.

    Args:
        path: `.csv`, `.tsv`, `.parquet`, `.jsonl`, a folder with one folder of images, sounds or videos per class
            (columns `file` and `label`), or a folder written by `datasets.Dataset.save_to_disk`.

    Raises:
        InputError: no such path, another format, no rows, or a row that cannot be read; the message names the line.
    """
    if path.is_dir():
        table = (
            _read_datasets(path)
            if (path / "state.json").exists() or (path / "dataset_dict.json").exists()
            else read_folder(path)
        )
    elif not path.exists():
        raise InputError(f"There is no {path}.", "Check the path of the data.")
    else:
        readers: dict[str, Callable[[Path], Table]] = {
            ".csv": read_csv,
            ".tsv": read_csv,
            ".parquet": _read_parquet,
            ".jsonl": _read_jsonl,
        }
        reader = readers.get(path.suffix.lower())
        if reader is None:
            raise InputError(f"{path.name} is not a table that can be read.", f"Bring one of: {', '.join(readers)}.")
        table = reader(path)
    if len(table) == 0:
        raise InputError(f"{path.name} has no rows.", "Bring a table with at least one row below its header.")
    return table


def table_of(
    columns: Mapping[str, Sequence[str | None]],
    kinds: Mapping[str, str],
    *,
    root: Path,
    source: Path,
    numbers: Sequence[int] | None = None,
    unit: str = "row",
    notes: tuple[str, ...] = (),
) -> Table:
    """A table of cells that a layout was read into, hashed by what stands in them.

    Args:
        columns: cells by column, all of one length.
        kinds: of the columns, as a schema.yaml would say them.
        root: where relative media paths start.
        source: what the rows were read from.
        numbers: of the rows in the source; default: counted from 1.
        unit: what `numbers` count.
        notes: what a person should know of how the rows were read.

    Raises:
        InputError: there are no rows.
    """
    rows = pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()})
    if rows.num_rows == 0:
        raise InputError(f"{source} has no rows.", "Look whether anything is missing there.")
    digest = _sha256(json.dumps(rows.to_pydict()).encode())
    places = tuple(numbers or range(1, rows.num_rows + 1))
    return Table(rows, root, source, digest, places, unit, kinds, notes)


def relative(file: Path, root: Path) -> str:
    """How a cell of a table at `root` names a file."""
    return Path(os.path.relpath(file, root)).as_posix()


def read_text(path: Path) -> str:
    """The text of a file, without its byte order mark.

    Raises:
        InputError: it cannot be read or is not UTF-8; names the line.
    """
    try:
        return _decoded(path, path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", "Check the path and its permissions.") from error


def read_csv(path: Path) -> Table:
    """A CSV or TSV file. A header with semicolons and no comma sets the separator, as spreadsheets in Europe do.

    Raises:
        InputError: it is no such file; names the line.
    """
    content = path.read_bytes()
    text = _decoded(path, content)
    header_line = text.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in header_line and "," not in header_line else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str | None]] = []
    numbers: list[int] = []
    try:
        header = _header(path, next(reader, []))
        before = reader.line_num
        for cells in reader:
            line, before = before + 1, reader.line_num  # a quoted cell may span lines: a row is named by its first
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path.name}, line {line} has {counted(len(cells), 'cell')}; the header has {len(header)}.",
                    "Put cells that contain the separator or line breaks in double quotes.",
                )
            rows.append([cell or None for cell in cells])
            numbers.append(line)
    except csv.Error as error:
        raise InputError(f"{path.name}, line {reader.line_num} is not CSV: {error}.", "Mend the line.") from error
    columns = [pa.array([row[k] for row in rows], pa.string()) for k in range(len(header))]
    return Table(pa.table(columns, names=header), path.parent, path, _sha256(content), tuple(numbers), "line")


def _header(path: Path, cells: list[str]) -> list[str]:
    """Column names, an empty one (the index of a data frame) as `unnamed_<place>`."""
    names = [cell.strip() or f"unnamed_{place}" for place, cell in enumerate(cells, 1)]
    if not names:
        raise InputError(f"{path.name} is empty.", "Bring a table with a header and rows.")
    _refuse_repeats(path, names)
    return names


def _refuse_repeats(path: Path, names: list[str]) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(f"{path.name} has two columns called {name!r}.", "Rename one.")


def _read_jsonl(path: Path) -> Table:
    """One JSON object a line; a key that a line lacks is a missing cell."""
    content = path.read_bytes()
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for line, text in enumerate(_decoded(path, content).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path.name}, line {line} is not JSON: {error}.", "Mend the line.") from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path.name}, line {line} is not a JSON object.", 'Write each row as {"column": cell, ...}.'
            )
        rows.append({name: None if cell == "" else cell for name, cell in row.items()})
        numbers.append(line)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [_column(path, name, [row.get(name) for row in rows], numbers) for name in names]
    return Table(pa.table(columns, names=names), path.parent, path, _sha256(content), tuple(numbers), "line")


def _column(path: Path, name: str, cells: list[Any], numbers: list[int]) -> pa.Array:
    """An Arrow column; cells of different types are refused with the line where the type changes."""
    try:
        return pa.array(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        first = next(cell for cell in cells if cell is not None)
        for line, cell in zip(numbers, cells, strict=True):
            if cell is not None and type(cell) is not type(first):
                raise InputError(
                    f"{path.name}, line {line}, column {name} holds {json.dumps(cell, ensure_ascii=False)[:60]}; "
                    f"the lines before hold {type(first).__name__} values.",
                    "Give a column one type.",
                ) from error
        raise InputError(f"{path.name}, column {name} cannot be read: {error}.", "Give a column one type.") from error


def _read_parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path.name} is not a Parquet file: {error}.", "Write it again.") from error
    _refuse_repeats(path, rows.column_names)
    return Table(_empty_to_null(rows), path.parent, path, _file_sha256(path), tuple(range(1, rows.num_rows + 1)))


def read_folder(path: Path) -> Table:
    """A folder per class: columns `file` and `label`.

    Raises:
        InputError: no folder in `path` holds images or sounds.
    """
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files: list[str] = []
    labels: list[str] = []
    digest = hashlib.sha256()
    for folder in classes:
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in MEDIA_SUFFIXES and not file.name.startswith("."):
                files.append(file.relative_to(path).as_posix())
                labels.append(folder.name)
                digest.update(f"{files[-1]}\0{_file_sha256(file)}\n".encode())
    if not files:
        raise InputError(
            f"{path} is neither a folder of tables nor a folder per class.",
            f"Bring a table, or folders named for their class that hold images ({', '.join(sorted(IMAGE_SUFFIXES))}), "
            f"sounds ({', '.join(sorted(AUDIO_SUFFIXES))}) or videos ({', '.join(sorted(VIDEO_SUFFIXES))}).",
        )
    rows = pa.table({"file": files, "label": labels})
    return Table(rows, path, path, digest.hexdigest(), tuple(range(1, len(files) + 1)))


def _read_datasets(path: Path) -> Table:
    """A Hugging Face dataset directory; the parts of a DatasetDict become the column `split`."""
    from datasets import ClassLabel, Dataset, load_from_disk

    try:
        loaded = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path} is not a readable dataset directory: {error}.", "Save it again.") from error
    parts: dict[str, Any] = {"": loaded} if isinstance(loaded, Dataset) else dict(loaded)
    tables = []
    for split, part in parts.items():
        rows: pa.Table = part.with_format("arrow")[:]
        for name, feature in part.features.items():
            if isinstance(feature, ClassLabel):
                named = [
                    None if cell is None or cell < 0 else feature.names[cell] for cell in rows.column(name).to_pylist()
                ]
                rows = rows.set_column(rows.column_names.index(name), name, pa.array(named, pa.string()))
        tables.append(rows.append_column("split", pa.array([split] * len(rows), pa.string())) if split else rows)
    joined = _empty_to_null(pa.concat_tables(tables))
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.arrow")):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_file_sha256(file)}\n".encode())
    return Table(joined, path, path, digest.hexdigest(), tuple(range(1, joined.num_rows + 1)))


def _empty_to_null(rows: pa.Table) -> pa.Table:
    """An empty string is a missing cell, as it is in CSV."""
    import pyarrow.compute as pc

    for place, column in enumerate(rows.columns):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            filled = pc.if_else(pc.equal(column, ""), None, column)
            rows = rows.set_column(place, rows.column_names[place], filled)
    return rows


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path.name}, line {line} is not UTF-8 text.", "Save the table as UTF-8.") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def counted(number: int, noun: str) -> str:
    """A number with its noun, as "1 row" or "2 rows"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
