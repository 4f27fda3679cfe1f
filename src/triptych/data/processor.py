"""Everything between a table's cells and a model's tensors, fitted on the training rows and saved beside the model."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int64

from triptych.data.audio import AudioFeatures
from triptych.data.decode import MEDIA
from triptych.data.image import ImageFeatures
from triptych.data.schema import Schema, in_order
from triptych.data.table import Table
from triptych.data.tabular import CategoryFeatures, NumberFeatures, parse_number
from triptych.data.text import TextFeatures
from triptych.data.video import VideoFeatures
from triptych.errors import ArtifactError, InputError
from triptych.recipe import parse
from triptych.structure import Features, Settings

FieldFeatures = ImageFeatures | AudioFeatures | VideoFeatures | TextFeatures | CategoryFeatures | NumberFeatures
CLASSES: dict[str, type[FieldFeatures]] = {c.kind: c for c in get_args(FieldFeatures)}
FITTED_ON = 1_000  # images, sounds and videos that are looked at, evenly spaced
FILE = "processor.json"


class Target(Settings):
    """The column that is predicted: one of `labels`, or a number."""

    name: str
    kind: Literal["category", "number"]
    labels: tuple[str, ...] = ()

    def encode(self, table: Table) -> Int64[np.ndarray, " rows"] | Float32[np.ndarray, " rows"]:
        """Label indices, or numbers.

        Raises:
            InputError: a missing cell, an unknown label, or no number; the message names table, line and column.
        """
        cells = table.column(self.name)
        for i, cell in enumerate(cells):
            if cell is None:
                raise InputError(
                    f"{table.place(i)}, column {self.name}: the cell is empty, and it is what the model learns.",
                    "Fill it in or leave the row out.",
                )
        if self.kind == "number":
            values = [parse_number(cell, f"{table.place(i)}, column {self.name}") for i, cell in enumerate(cells)]
            return np.array(values, dtype=np.float32)
        ids = {label: place for place, label in enumerate(self.labels)}
        for i, cell in enumerate(cells):
            if str(cell) not in ids:
                raise InputError(
                    f"{table.place(i)}, column {self.name}: the label {str(cell)!r} is not among the "
                    f"{len(ids)} labels of the training rows.",
                    "Add training rows with it or leave the row out.",
                )
        return np.array([ids[str(cell)] for cell in cells], dtype=np.int64)


class Processor:
    """The features of every input column, and the target.

    Args:
        features: by column, in the order in which the model takes them.
        target: None where nothing is predicted.
    """

    def __init__(self, features: dict[str, FieldFeatures], target: Target | None) -> None:
        self.features = features
        self.target = target

    @classmethod
    def fit(cls, table: Table, schema: Schema, settings: Mapping[str, Mapping[str, Any]] | None = None) -> "Processor":
        """Fit on training rows: vocabularies, categories, means, lengths, labels.

        Args:
            table: the training rows.
            schema: their columns.
            settings: by input column, fields of the `Config` of its kind; what is not set has a default.

        Raises:
            InputError: settings for a column that is no input, an unknown setting, or a cell that cannot be read.
        """
        told = dict(settings or {})
        names = [field.name for field in schema.inputs]
        for name in told:
            if name not in names:
                raise InputError(
                    f"There are settings for {name!r}, which is no input.", f"Inputs are: {', '.join(names)}."
                )
        features: dict[str, FieldFeatures] = {}
        for field in schema.inputs:
            made = CLASSES[field.kind]
            config = parse(made.Config, dict(told.get(field.name, {})), f"The features of {field.name}")
            cells: Iterable[Any] = [cell for cell in table.column(field.name) if cell is not None]
            if field.kind in MEDIA:
                cells = _spread(list(cells))
            features[field.name] = made(config).fit(cells, table.root, f"{table.source.name}, column {field.name}")
        return cls(features, _target(table, schema))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The labels in the order of their indices; None where the target is a number or there is none."""
        return self.target.labels if self.target is not None and self.target.kind == "category" else None

    @property
    def shapes(self) -> dict[str, Features]:
        """What each encoder reads."""
        return {name: features.shape for name, features in self.features.items()}

    def save(self, folder: Path) -> None:
        """Write processor.json, and a tokenizer.json for each column of subwords (the second is tokenizer_2.json)."""
        fields: dict[str, Any] = {}
        tokenizers = 0
        for name, features in self.features.items():
            state = features.state()
            if isinstance(features, TextFeatures) and "json" in state["tokenizer"]:
                tokenizers += 1
                file = "tokenizer.json" if tokenizers == 1 else f"tokenizer_{tokenizers}.json"
                (folder / file).write_text(state["tokenizer"].pop("json"), encoding="utf-8")
                state["tokenizer"]["file"] = file
            fields[name] = {"kind": features.kind, **state}
        content = {
            "version": 1,
            "fields": fields,
            "target": self.target.model_dump(mode="json") if self.target else None,
        }
        (folder / FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Processor":
        """Read what `save` wrote.

        Raises:
            ArtifactError: a file is missing or damaged, or of a newer version.
        """
        path = folder / FILE
        try:
            return cls._from_content(json.loads(path.read_text(encoding="utf-8")), folder)
        except FileNotFoundError as error:
            raise ArtifactError(f"There is no {error.filename}.", "Use a folder that Triptych wrote, whole.") from error
        except ArtifactError:
            raise
        except Exception as error:  # damage may break any step, some of them with a bare Exception
            reason = f"{type(error).__name__}: {error}"
            raise ArtifactError(f"{path} is damaged ({reason}).", "Write the folder again.") from error

    @classmethod
    def _from_content(cls, content: dict[str, Any], folder: Path) -> "Processor":
        if content["version"] != 1:
            version = content["version"]
            raise ArtifactError(f"{folder / FILE} has version {version}; this Triptych reads 1.", "Update Triptych.")
        features: dict[str, FieldFeatures] = {}
        for name, state in content["fields"].items():
            if "file" in state.get("tokenizer", {}):
                tokenizer = folder / Path(state["tokenizer"]["file"]).name
                state["tokenizer"]["json"] = tokenizer.read_text(encoding="utf-8")
            features[name] = CLASSES[state["kind"]].from_state(state)
        target = Target(**content["target"]) if content["target"] is not None else None
        return cls(features, target)


def _target(table: Table, schema: Schema) -> Target | None:
    """The target with the labels of the training rows, whole numbers in their order, words sorted."""
    field = schema.target
    if field is None:
        return None
    if field.kind == "number":
        return Target(name=field.name, kind="number")
    if field.kind != "category":
        raise InputError(
            f"{table.source.name}, column {field.name} holds {field.kind}, which no task predicts.",
            "Name another target, or give the column another kind.",
        )
    labels = {str(cell) for cell in table.column(field.name) if cell is not None}
    if not labels:
        raise InputError(
            f"{table.source.name}, column {field.name} is empty, and it is what the model learns.", "Fill it in."
        )
    return Target(name=field.name, kind="category", labels=tuple(in_order(labels)))


def _spread(cells: list[Any]) -> list[Any]:
    """At most `FITTED_ON` of the cells, evenly spaced."""
    return cells[:: -(-len(cells) // FITTED_ON)] if cells else []
