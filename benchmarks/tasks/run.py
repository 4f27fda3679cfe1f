"""Every task: trained by its recipe, then made a quarter of its bytes, both judged on test rows; each input alone beside it.

    python -m benchmarks.tasks.run [NAME ...]

Finished tasks are kept in results/tasks.json; those that are named are done again.
"""

import json
import shutil
import sys
import time
from typing import Any

from benchmarks import record
from benchmarks.tasks.tables import TASKS, WORK, table
from triptych.compress.verb import Request, carry_out
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.demo import bundled
from triptych.engines.torch import TorchEngine
from triptych.errors import ContractBroken
from triptych.evaluate.quality import measure
from triptych.recipe import Recipe, read_recipe
from triptych.train.run import train_recipe

SIZE, KEEP = "25%", "97%"


def recipe(name: str, **columns: str) -> Recipe:
    """The task's recipe on its tables; `columns` overrule the schema."""
    found = read_recipe(bundled("recipes") / f"{name}.yaml")
    inputs = {field: settings for field, settings in found.model.inputs.items() if field not in columns}
    data = found.data.model_copy(update={"path": str(table(name)), "columns": {**found.data.columns, **columns}})
    return found.model_copy(update={"data": data, "model": found.model.model_copy(update={"inputs": inputs})})


def alone(name: str, field: str) -> float:
    """Test quality of the same recipe that reads one of its inputs only."""
    schema = read_splits(table(name)).schema
    hidden = {other.name: f"{other.kind}:ignore" for other in schema.inputs if other.name != field}
    trained = train_recipe(recipe(name, **hidden), WORK / name / f"{field} alone")
    rows = Samples(trained.splits.table("test"), trained.loaded.processor, trained.splits.schema)
    return measure(TorchEngine(trained.loaded.model), trained.loaded.model.task, rows, only=["all"]).mean()


def measured(name: str) -> dict[str, Any]:
    """Train, compress, and look up what the report says."""
    folder = WORK / name
    began = time.monotonic()
    trained = train_recipe(recipe(name), folder / "model")
    minutes = (time.monotonic() - began) / 60
    request = Request(model=folder / "model", data=table(name), out=folder / "compressed", size=SIZE, keep=KEEP)
    command = f"triptych compress {folder / 'model'} --data {table(name)} --size {SIZE} --keep {KEEP}"
    try:
        carry_out(request, command=command, log=trained.log)
    except ContractBroken as broken:
        print(broken)
    report = json.loads((folder / "report.json").read_text())
    fields = list(report["before"]["quality"]["without"])
    return {
        "minutes_to_train": minutes,
        **{key: report[key] for key in ("before", "after", "ratio", "contract")},
        "alone": {field: alone(name, field) for field in fields},
    }


def main() -> None:
    """The tasks that were named, or all that have no row yet."""
    rows = record.read("tasks").get("rows", {})
    for name in sys.argv[1:]:
        shutil.rmtree(WORK / name / "model", ignore_errors=True)
    for name in sys.argv[1:] or [name for name in TASKS if name not in rows]:
        rows[name] = measured(name)
        record.write("tasks", {"rows": rows})


if __name__ == "__main__":
    main()
