"""The data check as people see it."""

from triptych import console
from triptych.data.check import CheckReport
from triptych.data.schema import Schema


def show(report: CheckReport, schema: Schema) -> None:
    """What the columns were taken for, how many rows of each label each split has, and every finding."""
    console.table("columns", ["column", "kind", "role"], [[f.name, f.kind, f.role] for f in schema.fields])
    labels = list(dict.fromkeys(label for counts in report.classes.values() for label in counts))
    shown = labels if len(labels) <= 12 else []
    rows = [
        [split, count, len(report.usable(split)), *(report.classes[split].get(label, 0) for label in shown)]
        for split, count in report.rows.items()
    ]
    console.table("rows", ["split", "rows", "usable", *shown], rows)
    for level in ("error", "warning", "note"):
        for finding in report.of(level):
            console.say(str(finding))
    counts = {level: len(report.of(level)) for level in ("error", "warning", "note")}
    console.say(", ".join(f"{n} {level}{'s' if n != 1 else ''}" for level, n in counts.items()))
