"""From what a person points at to the three tables that every run needs: train, valid, test.

A folder with `train`, `valid` and `test` tables is taken as it is. A single table is split by its `split` column, or by a seeded
draw of 80 / 10 / 10 % in which rows that share a group (a photo, a speaker) stay on one side. Where there are training and test
rows alone, a tenth of the training rows is drawn to choose by.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from triptych.data.layouts import read_layout
from triptych.data.schema import SPLIT_NAMES, Schema, guess, marked, read_schema
from triptych.data.table import Table, read_table
from triptych.data.target import Target
from triptych.errors import InputError

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
VALID = {"train": 0.9, "valid": 0.1}  # where test rows are set apart and nothing is to choose by


@dataclass(frozen=True)
class Splits:
    """The tables of a run and the schema they share."""

    tables: dict[str, Table]
    schema: Schema

    @property
    def sha256(self) -> str:
        """One hash over the hashes of all tables."""
        return hashlib.sha256("".join(f"{k}{t.sha256}" for k, t in sorted(self.tables.items())).encode()).hexdigest()

    def table(self, split: str) -> Table:
        """The table of a split.

        Raises:
            InputError: the data has no such split.
        """
        if split not in self.tables:
            raise InputError(
                f"The data has no {split} rows (it has: {', '.join(self.tables)}).",
                f"Add a table {split}.csv, or a `split` column with the value {split!r}.",
            )
        return self.tables[split]


def read_splits(
    path: Path,
    *,
    target: str | None = None,
    overrides: Mapping[str, str] | None = None,
    seed: int = 0,
    answered: Target | None = None,
) -> Splits:
    """Read DATA: a table, a folder of tables, a folder per class, a Hugging Face dataset directory, or a known layout.

    Args:
        path: what the person pointed at.
        target: the column to predict; default: what schema.yaml, the layout or the guess says.
        overrides: kinds by column, stronger than schema.yaml beside the table.
        seed: of the draw that splits a single table.
        answered: what the model that reads the rows answers: their target, unless the table has no such column.

    Raises:
        InputError: nothing is there, or it cannot be read.
    """
    if not path.exists():
        raise InputError(f"There is no {path}.", "Check the path of the data.")
    found = _split_files(path) if path.is_dir() else {}
    schema_file = (path if path.is_dir() else path.parent) / "schema.yaml"
    told = (read_schema(schema_file) if schema_file.exists() else {}) | dict(overrides or {})
    wanted = answered.name if answered else target or marked(told)
    tables = {split: read_table(file) for split, file in found.items()} or _set_apart(read_layout(path, wanted) or {})
    if not tables:
        tables = {"": read_table(path)}
    first = tables.get("train", next(iter(tables.values())))
    if answered and answered.name in first.names:
        target, told = answered.name, told | {answered.name: f"{answered.kind}:target"}
    schema = guess(first, target, told)
    if set(tables) == {""}:
        tables = _apart(first, schema, seed)
    if "test" in tables and "train" in tables and "valid" not in tables:
        tables |= _draw(tables["train"], schema, seed, VALID)
    return Splits(tables, schema)


def _set_apart(tables: dict[str, Table]) -> dict[str, Table]:
    """The tables of a layout, ready to train and to judge.

    What ImageNet and COCO call val is what figures are given on, for the labels of their test sets are secret. A single part is
    no split at all.
    """
    if len(tables) == 1:
        return {"": next(iter(tables.values()))}
    if "valid" in tables and "test" not in tables:
        tables = {"test" if split == "valid" else split: table for split, table in tables.items()}
    return {split: tables[split] for split in dict.fromkeys((*SHARES, *tables)) if split in tables}


def _apart(table: Table, schema: Schema, seed: int) -> dict[str, Table]:
    """One table by its `split` column, or by a draw."""
    if schema.split is None:
        return _draw(table, schema, seed, SHARES)
    column = [SPLIT_NAMES.get(str(v), str(v)) for v in table.column(schema.split.name)]
    return {name: table.take([i for i, v in enumerate(column) if v == name]) for name in dict.fromkeys(column)}


def _split_files(folder: Path) -> dict[str, Path]:
    """Tables named for their split, `left_out.csv` and other further test tables included."""
    files = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES}
    named = {SPLIT_NAMES.get(stem, stem): file for stem, file in files.items()}
    return named if "train" in named or "test" in named else {}


def _draw(table: Table, schema: Schema, seed: int, shares: Mapping[str, float]) -> dict[str, Table]:
    """Shares of a table, whole groups at a time (the first group column decides)."""
    keys = table.column(schema.groups[0].name) if schema.groups else list(range(len(table)))
    unique = list(dict.fromkeys(keys))
    place = dict(zip(unique, np.random.default_rng(seed).permutation(len(unique)) / max(len(unique), 1), strict=True))
    bounds = list(accumulate(shares.values()))[:-1]
    names = list(shares)
    rows: dict[str, list[int]] = {name: [] for name in names}
    for i, key in enumerate(keys):
        rows[names[bisect_right(bounds, place[key])]].append(i)
    return {name: table.take(chosen) for name, chosen in rows.items() if chosen}
