"""ESC-10 as it is usually tested: each of its five folds in turn, from scratch and on what YAMNet hears.

    python -m benchmarks.tasks.folds [RECIPE ...]

The fold before the one to test on validates. Writes results/folds.json after each fold; folds that are there are not trained again
unless their recipe is named.
"""

import sys
from pathlib import Path
from statistics import mean

import torch

from benchmarks import record
from benchmarks.tasks.run import recipe, scored
from benchmarks.tasks.tables import sounds
from triptych import console
from triptych.train.run import train_recipe

RECIPES = ("sounds_yamnet", "sounds")
FOLDS = range(1, 6)
FOLDER = Path("runs/folds")


def accuracy(name: str, fold: int) -> float:
    """On the test rows of one fold."""
    data = FOLDER / str(fold)
    if not (data / "schema.yaml").exists():
        sounds(data, fold)
    asked = recipe(name, {})
    asked = asked.model_copy(update={"data": asked.data.model_copy(update={"path": str(data)})})
    return scored(train_recipe(asked, FOLDER / name / str(fold)))["accuracy"]


def main() -> None:
    """The recipes that were named, or what is not there yet of both."""
    torch.set_num_threads(1)  # so that another machine with more cores finds the same
    found: dict[str, dict[str, float]] = record.read("folds").get("accuracy", {})
    for name in sys.argv[1:] or RECIPES:
        kept = {} if name in sys.argv else found.get(name, {})
        for fold in FOLDS:
            kept[str(fold)] = kept[str(fold)] if str(fold) in kept else accuracy(name, fold)
            record.write("folds", {"accuracy": found | {name: kept}})
        found[name] = kept
    rows = [
        [name, f"{mean(kept.values()):.1%}", *(f"{one:.1%}" for one in kept.values())] for name, kept in found.items()
    ]
    console.table("ESC-10, accuracy by fold", ["", "mean", *map(str, FOLDS)], rows)


if __name__ == "__main__":
    main()
