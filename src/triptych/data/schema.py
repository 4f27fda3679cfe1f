"""What each column of a table holds and what it is for: guessed from the cells, overridden by the person."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

import yaml

from triptych.data.boxes import are_boxes
from triptych.data.decode import EXCERPT, MEDIA, Media, media_kind
from triptych.data.table import Table
from triptych.errors import InputError
from triptych.structure import Modality, Settings

Predicted = Literal["boxes", "mask", "identity"]  # kinds that a model answers and never reads
Kind = Modality | Predicted
Role = Literal["input", "target", "group", "split", "ignore"]
KINDS: tuple[Kind, ...] = (*get_args(Modality), *get_args(Predicted))
ROLES: tuple[Role, ...] = get_args(Role)
PREDICTED = frozenset[Kind](get_args(Predicted))
UNSAID: tuple[None, None] = (None, None)  # kind and role that nobody mentioned

TARGET_NAMES = ("target", "label", "class", "y")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
GROUP_NAME = re.compile(r"(^|_)(id|group|speaker|user|patient|subject|session)$", re.IGNORECASE)
INDEX_NAME = re.compile(r"^(unnamed_\d+|index|row|)$", re.IGNORECASE)  # what spreadsheets and data frames leave behind
WORDY = 3  # words a cell from which a target with mostly distinct cells is a text
LOOKED_AT = 1_000  # cells a guess is made from


class Field(Settings):
    """One column: its name, the kind of its cells and its role. An identity is a target alone: rows with equal cells belong together."""

    name: str
    kind: Kind
    role: Role


class Schema(Settings):
    """All columns, in table order."""

    fields: tuple[Field, ...]

    @property
    def inputs(self) -> tuple[Field, ...]:
        """The columns a model reads."""
        return tuple(field for field in self.fields if field.role == "input")

    @property
    def target(self) -> Field | None:
        """The column a model predicts."""
        return next((field for field in self.fields if field.role == "target"), None)

    @property
    def groups(self) -> tuple[Field, ...]:
        """The columns that name what rows share: a photo, a speaker, an identity."""
        return tuple(field for field in self.fields if field.role == "group" or field.kind == "identity")

    @property
    def split(self) -> Field | None:
        """The column that says which split a row belongs to."""
        return next((field for field in self.fields if field.role == "split"), None)

    def __str__(self) -> str:
        return "\n".join(f"{field.name}: {field.kind}:{field.role}" for field in self.fields)


def read_schema(path: Path) -> dict[str, str]:
    """Read overrides for `guess` from a YAML mapping, `column: kind` or `column: kind:role`.

    Raises:
        InputError: the file is missing, is not YAML, or is not such a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no schema {path}.", "Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}.", "Mend it.") from error
    if not isinstance(content, dict) or not all(isinstance(x, str) for pair in content.items() for x in pair):
        raise InputError(f"{path} is not a mapping of columns to kinds.", "Write one line a column, as `photo: image`.")
    return content


def guess(table: Table, target: str | None = None, overrides: Mapping[str, str] | None = None) -> Schema:
    """The schema of a table.

    Args:
        table: its first rows are looked at, a thousand at most, evenly spaced.
        target: the column to predict. Default: what the overrides say, else a column called target, label, class or y.
        overrides: "kind", "kind:role" or "role" by column; what is not said is what the table's layout says, or guessed.

    Raises:
        InputError: an override or the target names no column, an unknown kind or role, two targets, or no inputs.
    """
    told = {name: _parse(name, text) for name, text in (overrides or {}).items()}
    for name in (*told, *([target] if target is not None else [])):
        if name not in table.names:
            raise InputError(f"{table.source.name} has no column {name!r}.", _nearest(name, table.names))
    layout = {name: _parse(name, text) for name, text in table.kinds.items()}
    free = [name for name in table.names if told.get(name, UNSAID)[1] is None]
    chosen = target or _told_target(told) or _told_target({name: layout[name] for name in free if name in layout})
    if chosen is None:
        chosen = next((name for wanted in TARGET_NAMES for name in free if name.lower() == wanted), None)

    fields = []
    for name in table.names:
        said, known = told.get(name, UNSAID), layout.get(name, UNSAID)
        kind, role = said[0] or known[0], said[1] or known[1]
        cells = _look(table, name)
        if name == chosen:
            field = Field(name=name, kind=kind or _target_kind(cells), role="target")
        else:
            kind = kind or _kind(cells)
            role = "ignore" if role == "target" else role  # another column was asked for on the command line
            field = Field(name=name, kind=kind, role=role or _role(name, kind, cells, name in told))
        if field.kind in PREDICTED and field.role not in ("target", "ignore"):
            raise InputError(
                f"Column {name!r} holds {field.kind}, which a model answers and never reads.",
                f"Write `{name}: {field.kind}:target` or `{name}: ignore`.",
            )
        fields.append(field)
    schema = Schema(fields=tuple(fields))
    if not schema.inputs:
        raise InputError(
            f"{table.source.name} has no column that a model could read.",
            "Say which columns are inputs, as `photo: image:input`.",
        )
    return schema


def marked(overrides: Mapping[str, str]) -> str | None:
    """The column that overrides for `guess` make the target, as far as they say it."""
    return _told_target({name: _parse(name, text) for name, text in overrides.items()})


def _told_target(told: Mapping[str, tuple[Kind | None, Role | None]]) -> str | None:
    """The column that is marked as the target, else one of a kind that can be nothing else.

    Raises:
        InputError: two are marked.
    """
    marked = [name for name, (_, role) in told.items() if role == "target"]
    if len(marked) > 1:
        raise InputError(f"Two columns are marked as the target: {marked[0]!r} and {marked[1]!r}.", "Keep one.")
    predicted = (name for name, (kind, role) in told.items() if kind in PREDICTED and role is None)
    return next(iter(marked), None) or next(predicted, None)


def in_order(labels: Iterable[str]) -> list[str]:
    """Labels sorted: whole numbers by their value, words by their letters."""
    known = list(labels)
    return sorted(known, key=int) if all(label.isdecimal() for label in known) else sorted(known)


def _parse(name: str, text: str) -> tuple[Kind | None, Role | None]:
    """Take "kind", "kind:role" or "role" apart."""
    first, _, second = (part.strip() for part in text.partition(":"))
    if first in ROLES and not second:
        first, second = "", first
    if first and first not in KINDS:
        raise InputError(f"Column {name!r}: there is no kind {first!r}.", _nearest(first, KINDS))
    if second and second not in ROLES:
        raise InputError(f"Column {name!r}: there is no role {second!r}.", _nearest(second, ROLES))
    return next((k for k in KINDS if k == first), None), next((r for r in ROLES if r == second), None)


def _nearest(name: str, known: Sequence[str]) -> str:
    """The next step after a name that is not known."""
    near = get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Choose one of: {', '.join(known)}."


def _look(table: Table, name: str) -> list[Any]:
    """Present cells of a column, from evenly spaced rows."""
    step = max(1, -(-len(table) // LOOKED_AT))
    return [cell for cell in table.take(range(0, len(table), step)).column(name) if cell is not None]


def _kind(cells: list[Any]) -> Kind:
    """The kind of an input or group column."""
    media = _media(cells)
    if media is not None or not cells:
        return media or "text"
    if all(_is_series(cell) for cell in cells):
        return "series"
    if all(_is_number(cell) for cell in cells):
        return "number"
    if are_boxes(cells):
        return "boxes"
    distinct = {str(cell) for cell in cells}
    few = len(distinct) <= max(2, min(50, len(cells) // 4))
    words = sum(len(text.split()) for text in distinct) / len(distinct)
    return "category" if few and words < 4 else "text"


def _media(cells: list[Any]) -> Media | None:
    """Whether all cells are images, sounds or videos, by their suffixes or first bytes."""
    contents = [cell for cell in cells if isinstance(cell, dict | bytes)]
    if contents:
        return media_kind(contents[0])
    suffixes = {PurePath(EXCERPT.sub("", cell)).suffix.lower() if isinstance(cell, str) else "" for cell in cells}
    return next((kind for kind, all_of in MEDIA.items() if suffixes and suffixes <= all_of), None)


def _target_kind(cells: list[Any]) -> Kind:
    """A target is a number to regress if its cells are numbers and not a handful of whole ones; of pictures, they are masks; of
    sounds, these are to be made; a text if it reads like one.
    """
    if are_boxes(cells):
        return "boxes"
    media = _media(cells)
    if media in ("image", "audio"):
        return "mask" if media == "image" else "audio"
    if any(isinstance(cell, list) for cell in cells):
        return "text"
    if not cells or isinstance(cells[0], bool) or not all(_is_number(cell) for cell in cells):
        texts = [str(cell) for cell in cells]
        wordy = bool(texts) and sum(len(text.split()) for text in texts) >= WORDY * len(texts)
        return "text" if wordy and len(set(texts)) > len(texts) / 2 else "category"
    values = {float(cell) for cell in cells}
    whole = all(value.is_integer() for value in values)
    return "category" if whole and len(values) <= 20 else "number"


def _role(name: str, kind: Kind, cells: list[Any], mentioned: bool) -> Role:
    """What a column is for whose role nobody mentioned, though perhaps its kind."""
    if mentioned or kind in PREDICTED:
        return "ignore" if kind in PREDICTED else "input"
    distinct = {str(cell) for cell in cells}
    if name.lower() == "split" and {text.lower() for text in distinct} <= SPLIT_NAMES.keys():
        return "split"
    if kind not in ("category", "number", "text") or not cells:
        return "input" if cells else "ignore"
    if GROUP_NAME.search(name):
        return "group" if len(distinct) < len(cells) else "ignore"
    if INDEX_NAME.match(name) and len(distinct) == len(cells):
        return "ignore"
    return "input"


def _is_series(cell: Any) -> bool:
    """Whether a cell is a .npy file or holds numbers in a list."""
    if isinstance(cell, list):
        first = cell[0] if cell else None
        return isinstance(first, int | float) or (isinstance(first, list) and bool(first) and _is_number(first[0]))
    return isinstance(cell, str) and PurePath(cell).suffix == ".npy"


def _is_number(cell: Any) -> bool:
    """Whether a cell is a number or spells one."""
    if isinstance(cell, bool):
        return False
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
