"""Everything between a table's cells and a model's tensors, fitted on the training rows and saved beside the model."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from triptych.data.audio import AudioFeatures
from triptych.data.decode import MEDIA
from triptych.data.image import ImageFeatures
from triptych.data.overlay import Overlay
from triptych.data.schema import Schema
from triptych.data.series import SeriesFeatures
from triptych.data.table import Table
from triptych.data.tabular import CategoryFeatures, NumberFeatures
from triptych.data.target import Target, fit_target
from triptych.data.text import TextFeatures
from triptych.data.video import VideoFeatures
from triptych.errors import ArtifactError, InputError
from triptych.recipe import parse
from triptych.structure import Features

FieldFeatures = (
    ImageFeatures | AudioFeatures | VideoFeatures | SeriesFeatures | TextFeatures | CategoryFeatures | NumberFeatures
)
CLASSES: dict[str, type[FieldFeatures]] = {c.kind: c for c in get_args(FieldFeatures)}
FITTED_ON = 1_000  # images, sounds and videos that are looked at, evenly spaced
FILE = "processor.json"


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
    def fit(
        cls,
        table: Table,
        schema: Schema,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        target: Mapping[str, Any] | None = None,
    ) -> "Processor":
        """Fit on training rows: vocabularies, categories, means, lengths, labels.

        Args:
            table: the training rows.
            schema: their columns.
            settings: by input column, fields of the `Config` of its kind; what is not set has a default.
            target: fields of `TextFeatures.Config`, where the target is a text; of `OverlaySettings`, for masks and boxes.

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
            if field.kind in (*MEDIA, "series"):
                cells = _spread(list(cells))
            features[field.name] = made(config).fit(cells, table.root, f"{table.source.name}, column {field.name}")
        frames = {name: one.frame for name, one in features.items() if type(one) is ImageFeatures}
        return cls(features, fit_target(table, schema.target, target or {}, frames))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The labels in the order of their indices; None where the target is a number or there is none."""
        return self.target.labels if self.target is not None and self.target.kind == "category" else None

    @property
    def overlay(self) -> Overlay | None:
        """How the target lies over a picture; None where it does not."""
        return self.target.overlay if self.target is not None else None

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


def _spread(cells: list[Any]) -> list[Any]:
    """At most `FITTED_ON` of the cells, evenly spaced."""
    return cells[:: -(-len(cells) // FITTED_ON)] if cells else []
