"""The schema of a run: what a recipe file may say, one to one with the command line and the Python calls.

data:  {path: data/, target: label, columns: {photo: image, speaker: "category:group"}}
model: {inputs: {photo: {encoder: {name: cnn}, size: 64}}, fusion: {name: bilinear}, task: {name: classify}}
train: {steps: 1000, optimizer: {lr: 0.002}}
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from triptych.errors import InputError
from triptych.structure import Settings
from triptych.train.settings import TrainSettings


class DataSettings(Settings):
    """Where the rows are and what the columns hold."""

    path: str | None = None
    target: str | None = None
    columns: dict[str, str] = {}


class InputSettings(Settings):
    """One input column: how its cells become tensors (`features`) and what reads them (`encoder`)."""

    features: dict[str, Any] = {}
    encoder: dict[str, Any] = {}


class ModelSettings(Settings):
    """The parts of the model; what is not named gets the defaults of its kind. `target` says how a target text is cut."""

    inputs: dict[str, InputSettings] = {}
    fusion: dict[str, Any] = {}
    task: dict[str, Any] = {}
    target: dict[str, Any] = {}


class Recipe(Settings):
    """A whole run. `version` is raised when old recipes would mean something else."""

    version: Literal[1] = 1
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = Field(default_factory=lambda: TrainSettings(epochs=10))


def read_recipe(path: Path) -> Recipe:
    """Read a YAML recipe.

    Raises:
        InputError: not YAML, an unknown key (with the nearest known one), or a value that does not fit.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"There is no recipe {path}.", "Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML recipe: {' '.join(str(error).split())}.", "Mend it.") from error
    return parse(Recipe, content or {}, str(path))


def parse(model: type[Any], content: Any, where: str) -> Any:
    """Validate `content` as a settings class; every complaint names its key and the nearest known key.

    Raises:
        InputError: with all complaints in one paragraph.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        complaints = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                known = _keys(model, problem["loc"][:-1])
                near = get_close_matches(str(problem["loc"][-1]), known, n=1)
                hint = f" (did you mean {near[0]}?)" if near else f" (there are: {', '.join(known)})" if known else ""
                complaints.append(f"{key} is not a setting{hint}")
            else:
                complaints.append(f"{key}: {problem['msg']}" if key else problem["msg"])
        raise InputError(f"{where} does not fit: {'; '.join(complaints)}.", "Mend it and run again.") from error


def _keys(model: Any, path: tuple[int | str, ...]) -> list[str]:
    """The settings that exist at a place inside a settings class."""
    for part in path:
        fields = getattr(model, "model_fields", {})
        model = fields[part].annotation if part in fields else model
        candidates = [model, *getattr(model, "__args__", ())]
        model = next((c for c in candidates if hasattr(c, "model_fields")), model)
    return list(getattr(model, "model_fields", {}))


def write_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every default filled in."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
