"""The data check: before any work it looks at every cell of every split and says loudly what is wrong.

An **error** is a row that a model cannot learn from, or one that would make a figure a lie (a test row that is also a
training row); such a row is left out, or stops the run where the check is strict. A **warning** is for a person to
judge. A **note** is for information.
"""

from collections.abc import Callable, Mapping

from triptych import console
from triptych.data import findings as find
from triptych.data.cells import Cell, CellReader
from triptych.data.findings import Finding, Level, Part
from triptych.data.schema import Schema
from triptych.data.table import Table
from triptych.data.target_findings import class_counts, label_problems
from triptych.errors import InputError
from triptych.limits import LIMITS, Limits
from triptych.structure import Settings


class CheckReport(Settings):
    """Everything the check found.

    Attributes:
        rows: how many rows each split has.
        classes: how many rows each label has, by split.
        findings: errors, warnings and notes in the order of splits and columns.
    """

    rows: dict[str, int]
    classes: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]

    def of(self, level: Level) -> tuple[Finding, ...]:
        """The findings of a level."""
        return tuple(finding for finding in self.findings if finding.level == level)

    def left_out(self, split: str) -> list[int]:
        """The rows of a split that an error names (places from 0)."""
        return sorted({row for finding in self.of("error") if finding.split == split for row in finding.rows})

    def usable(self, split: str) -> list[int]:
        """The other rows of a split."""
        out = set(self.left_out(split))
        return [row for row in range(self.rows[split]) if row not in out]

    def raise_errors(self, strict: bool = False) -> None:
        """Stop where the data cannot be used.

        Args:
            strict: any error stops; otherwise only one that names no rows, or that leaves a split without rows.

        Raises:
            InputError: with the first error and the number of the others.
        """
        errors = self.of("error")
        fatal = [finding for finding in errors if strict or not finding.rows]
        if fatal:
            more = f" ({len(fatal) - 1} more errors: the data check lists them.)" if len(fatal) > 1 else ""
            raise InputError(fatal[0].message + more, fatal[0].next)
        for split in self.rows:
            if not self.usable(split):
                first = next(finding for finding in errors if finding.split == split)
                raise InputError(f"No row of {split} can be used. {first.message}", first.next)

    def __str__(self) -> str:
        levels: tuple[Level, ...] = ("error", "warning", "note")
        return "\n".join(str(finding) for level in levels for finding in self.of(level))


def check(tables: Mapping[str, Table], schema: Schema, limits: Limits = LIMITS) -> CheckReport:
    """Look at every cell of every split.

    Args:
        tables: by split; the others are compared with `train`, if there is one.
        schema: the columns' kinds and roles.
        limits: on media and text.
    """
    reader = CellReader(limits)
    with console.progress("check", sum(len(table) for table in tables.values()), unit="row") as advance:
        parts = {split: Part(split, table, *_read(table, schema, reader, advance)) for split, table in tables.items()}
    train = parts.get("train")
    notes: dict[str, Part] = {}
    for part in parts.values():
        for note in part.table.notes:
            notes.setdefault(note, part)
    found = [part.verbatim("note", "layout", note, "") for note, part in notes.items()]
    for part in parts.values():
        for field in schema.inputs:
            cells = part.cells[field.name]
            found += find.unreadable_cells(part, field.name, cells)
            found += find.dull_cells(part, field, cells)
            found += find.length_outliers(part, field, cells)
        found += find.empty_and_repeated_rows(part, schema.target)
        found += label_problems(part, train, schema.target)
        if train is not None and part is not train:
            found += find.rows_in_training(part, train, schema)
            found += find.groups_in_training(part, train, schema)
    return CheckReport(
        rows={split: len(table) for split, table in tables.items()},
        classes={split: class_counts(part, schema.target) for split, part in parts.items()},
        findings=tuple(found),
    )


def _read(
    table: Table, schema: Schema, reader: CellReader, advance: Callable[[int], None]
) -> tuple[dict[str, list[Cell]], list[Cell]]:
    """The cells of all input columns, and those of the target.

    Raises:
        InputError: the table lacks one of the inputs.
    """
    for field in schema.inputs:
        if field.name not in table.names:
            raise InputError(f"{table.source.name} has no column {field.name}.", "All splits need the same inputs.")
    target = schema.target if schema.target is not None and schema.target.name in table.names else None
    fields = (*schema.inputs, *([target] if target is not None else []))
    columns = {field.name: table.column(field.name) for field in fields}
    found: dict[str, list[Cell]] = {name: [] for name in columns}
    for i in range(len(table)):
        size = None  # of the row's first picture, which its boxes or mask belong to
        for field in fields:
            where = f"{table.place(i)}, column {field.name}"
            cell = reader.read(columns[field.name][i], field.kind, table.root, where, size)
            found[field.name].append(cell)
            size = size or cell.size
        advance(1)
    return found, found.pop(target.name) if target is not None else []
