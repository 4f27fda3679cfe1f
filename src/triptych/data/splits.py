"""From what a person points at to the three tables that every run needs: train, valid, test.

A folder with `train`, `valid` and `test` tables is taken as it is. A single table is split by its `split` column, or by a seeded
draw of 80 / 10 / 10 % in which rows that share a group (a photo, a speaker) stay on one side.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triptych.data.schema import Schema, guess, read_schema
from triptych.data.table import Table, read_table
from triptych.errors import InputError

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
OTHER_NAMES = {"validation": "valid", "val": "valid", "dev": "valid", "training": "train", "testing": "test"}


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
    path: Path, *, target: str | None = None, overrides: Mapping[str, str] | None = None, seed: int = 0
) -> Splits:
    """Read DATA: a table, a folder of tables, a folder per class, or a Hugging Face dataset directory.

    Args:
        path: what the person pointed at.
        target: the column to predict; default: what schema.yaml or the guess says.
        overrides: kinds by column, stronger than schema.yaml beside the table.
        seed: of the draw that splits a single table.
    """
    if not path.exists():
        raise InputError(f"There is no {path}.", "Check the path of the data.")
    found = _split_files(path) if path.is_dir() else {}
    schema_file = (path if path.is_dir() else path.parent) / "schema.yaml"
    told = (read_schema(schema_file) if schema_file.exists() else {}) | dict(overrides or {})
    if found:
        tables = {split: read_table(file) for split, file in found.items()}
        schema = guess(tables.get("train", next(iter(tables.values()))), target, told)
        return Splits(tables, schema)
    table = read_table(path)
    schema = guess(table, target, told)
    if schema.split is not None:
        column = [OTHER_NAMES.get(str(v), str(v)) for v in table.column(schema.split.name)]
        names = list(dict.fromkeys(column))
        return Splits({name: table.take([i for i, v in enumerate(column) if v == name]) for name in names}, schema)
    return Splits(_draw(table, schema, seed), schema)


def _split_files(folder: Path) -> dict[str, Path]:
    """Tables named for their split, `left_out.csv` and other further test tables included."""
    files = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES}
    named = {OTHER_NAMES.get(stem, stem): file for stem, file in files.items()}
    return named if "train" in named or "test" in named else {}


def _draw(table: Table, schema: Schema, seed: int) -> dict[str, Table]:
    """80 / 10 / 10 %, whole groups at a time (the first group column decides)."""
    keys = table.column(schema.groups[0].name) if schema.groups else list(range(len(table)))
    unique = list(dict.fromkeys(keys))
    place = dict(zip(unique, np.random.default_rng(seed).permutation(len(unique)) / max(len(unique), 1), strict=True))
    bounds = (SHARES["train"], SHARES["train"] + SHARES["valid"])
    rows: dict[str, list[int]] = {name: [] for name in SHARES}
    for i, key in enumerate(keys):
        rows["train" if place[key] < bounds[0] else "valid" if place[key] < bounds[1] else "test"].append(i)
    return {name: table.take(chosen) for name, chosen in rows.items() if chosen}
