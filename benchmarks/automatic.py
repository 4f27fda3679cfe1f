"""What a chosen recipe reaches beside the hand-written ones, in the minutes that theirs took.

    python -m benchmarks.automatic [NAME ...]

For each task of `results/tasks` whose recipe reads no pretrained backbone, a recipe is chosen and trained (`triptych train DATA
--minutes ...`, at least two of them), and the two models answer the same test rows.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.record import RESULTS
from benchmarks.tasks.run import tables
from benchmarks.tasks.tables import WORK
from triptych.data.samples import Samples
from triptych.demo import bundled
from triptych.engines.torch import TorchEngine
from triptych.evaluate.quality import measure
from triptych.models.store import read_model
from triptych.recipe import DataSettings, read_recipe
from triptych.train.run import train_data

LEAST = 2.0  # minutes


def compared(name: str) -> dict[str, Any]:
    """One task: the quality of the chosen recipe's model and of the hand-written one's on the test rows."""
    minutes = max(LEAST, record.read(f"tasks/{name}")["minutes_to_train"])
    for made in WORK.glob(f"{name}/chosen*"):
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    written = read_recipe(bundled("recipes") / f"{name}.yaml")
    data = DataSettings(path=str(tables(name)), target=written.data.target, columns=written.data.columns)
    began = time.monotonic()
    trained = train_data(data, WORK / name / "chosen", minutes=minutes)
    took = (time.monotonic() - began) / 60
    splits, task = trained.splits, read_model(WORK / name / "model")
    table = splits.table("test")
    found = {}
    for label, loaded in (("chosen", trained.loaded), ("by_hand", task)):
        rows = Samples(table, loaded.processor, splits.schema)
        found[label] = measure(TorchEngine(loaded.model), task.model.task, rows, only=["all"])
    qualities = {label: quality.mean() for label, quality in found.items()}
    return {"metric": found["by_hand"].metric, "allowed": minutes, "took": took, **qualities}


def own(path: Path) -> bool:
    """Whether a task's recipe makes do without a pretrained backbone."""
    inputs = read_recipe(bundled("recipes") / f"{path.stem}.yaml").model.inputs.values()
    return all(not said.encoder.get("path") for said in inputs)


def main() -> None:
    """The tasks that were named, or all that have no row yet."""
    rows = {} if sys.argv[1:] else record.read("automatic").get("rows", {})
    names = sys.argv[1:] or [path.stem for path in sorted((RESULTS / "tasks").glob("*.json")) if own(path)]
    for name in names:
        if name not in rows:
            rows[name] = compared(name)
            record.write("automatic", {"rows": rows})


if __name__ == "__main__":
    main()
