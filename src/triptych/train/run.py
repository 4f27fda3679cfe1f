"""From a recipe and a table to a published model folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych import artifact, console
from triptych.data.check import check
from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.show import show
from triptych.data.splits import Splits, read_splits
from triptych.errors import InputError
from triptych.models.make import make_model
from triptych.models.store import Loaded, read_model, write_model
from triptych.models.summary import summarize
from triptych.recipe import Recipe, write_recipe
from triptych.train.log import read_log
from triptych.train.loop import train


@dataclass
class TrainedModel:
    """A published model, the data it was trained on, and its log."""

    loaded: Loaded
    splits: Splits
    log: list[dict[str, float]]


def train_recipe(recipe: Recipe, out: Path, *, strict: bool = False) -> TrainedModel:
    """Check the data, train, and publish the model in `out`.

    The same call continues a run that was stopped, and returns at once where the run is complete. Checkpoints and the log stand
    beside `out` in a folder of the same name that ends in `.work`.

    Raises:
        InputError: bad data or a recipe that does not fit it.
        ArtifactError: `out` holds something else.
        Stopped: interrupted; the same call continues.
    """
    if recipe.data.path is None:
        raise InputError("The recipe names no data.", "Set data.path, or give the data on the command line.")
    splits = read_splits(
        Path(recipe.data.path), target=recipe.data.target, overrides=recipe.data.columns, seed=recipe.train.seed
    )
    if splits.schema.target is None:
        raise InputError(
            f"No column of {recipe.data.path} is known to be the target.",
            f"Name it with --target; the columns are: {', '.join(f.name for f in splits.schema.fields)}.",
        )
    identity: dict[str, Any] = {
        "kind": "model",
        "data": splits.sha256,
        "recipe": recipe.model_dump(mode="json", exclude={"data": {"path"}}),
    }
    work = out.with_name(out.name + ".work")
    if artifact.existing(out, identity):
        console.say(f"{out} is complete; nothing to do")
        return TrainedModel(read_model(out), splits, _log(work))
    artifact.claim(work, identity)
    report = check(splits.tables, splits.schema)
    show(report, splits.schema)
    report.raise_errors(strict=strict)
    tables = {name: table.take(report.usable(name)) for name, table in splits.tables.items()}
    features = {name: settings.features for name, settings in recipe.model.inputs.items()}
    processor = Processor.fit(tables["train"], splits.schema, features, recipe.model.target)
    rows = Samples(tables["train"], processor, splits.schema)
    valid = Samples(tables["valid"], processor, splits.schema)
    assert rows.labels is not None  # the schema has a target
    model = make_model(recipe.model, processor, rows.labels, recipe.train.seed)
    layers = summarize(model)
    parameters = sum(p.numel() for p in model.parameters())
    macs = sum(row.macs for row in layers)
    console.say(f"{parameters:,} parameters, {macs:,} multiply-adds a sample; `triptych inspect` lists the layers")
    train(model, rows, valid, recipe.train, folder=work)
    with artifact.publish(out, identity) as staging:
        write_model(staging, model, processor)
        (staging / "recipe.yaml").write_text(write_recipe(recipe), encoding="utf-8")
    return TrainedModel(read_model(out), splits, _log(work))


def _log(work: Path) -> list[dict[str, float]]:
    path = work / "log.jsonl"
    return read_log(path) if path.exists() else []
