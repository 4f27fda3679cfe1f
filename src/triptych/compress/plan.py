"""The plan: what is done to every compressible part of a model, and why. A YAML file that people read, edit and write.

    version: 1
    passes:
      - {do: prune, importance: taylor, keep: {encoders.photo.stages.0.0.inner: 24}}
      - {do: drop, blocks: [encoders.voice.stages.2.1]}
      - {do: distil, steps: 400}
      - {do: quantise, method: gptq, layers: {encoders.photo.stem.weight: w8a8, task.output.weight: fp32}}

Passes run in the order of the file. Quantising comes last, since every other pass would move the weights off their grid.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from triptych.compress.quantize.float8 import GRID
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme
from triptych.errors import InputError
from triptych.recipe import parse
from triptych.structure import Settings
from triptych.train.settings import OptimizerSettings, ScheduleSettings, TrainSettings

SCHEME = re.compile(
    r"(?:w(?P<bits>[2-8])(?:g(?P<group>\d+))?(?P<zero>z)?(?:a(?P<activation>8)(?P<token>t)?)?|f8(?P<float>a8t)?)"
)


class Prune(Settings):
    """Narrow the model: of each width keep the `keep` most important units, then refit what reads them by least squares."""

    do: Literal["prune"] = "prune"
    importance: str = "taylor"
    refit: bool = True
    rows: int = Field(512, ge=1, description="calibration rows")
    keep: dict[str, int]


class Drop(Settings):
    """Leave whole residual blocks out."""

    do: Literal["drop"] = "drop"
    blocks: tuple[str, ...]


class Sparsify(Settings):
    """Set the smallest weights to zero (unstructured magnitude pruning); a later `distil` keeps them zero."""

    do: Literal["sparsify"] = "sparsify"
    sparsity: float = Field(gt=0, lt=1)
    scope: Literal["global", "layer"] = "global"


class Distil(Settings):
    """Recover: train the compressed model to answer as the original does, modalities hidden from both alike.

    `student` trains a new, smaller model of that `model` recipe instead of the narrowed one.
    """

    do: Literal["distil"] = "distil"
    steps: int = Field(400, ge=1)
    batch_size: int = Field(128, ge=1)
    lr: float = Field(2e-3, gt=0)
    losses: dict[str, float] = {"labels": 0.3, "logits": 1.0, "features": 0.5, "similarity": 0.5}
    temperature: float = Field(2.0, gt=0)
    modality_dropout: float = Field(0.15, ge=0, lt=1)
    augment: bool = True
    student: dict[str, Any] | None = None

    def training(self, seed: int) -> TrainSettings:
        """The settings of the loop that runs this pass."""
        return TrainSettings(
            steps=self.steps,
            batch_size=self.batch_size,
            optimizer=OptimizerSettings(lr=self.lr),
            schedule=ScheduleSettings(warmup=0.05),
            modality_dropout=self.modality_dropout,
            augment=self.augment,
            seed=seed,
        )


class Quantise(Settings):
    """Store weights as codes of 2 to 8 bits, by layer: `w8a8`, `w8`, `w4g32`, `w3g64z`, ... or `fp32`.

    `w4g32` is 4 bits with one scale for 32 neighbouring columns; without `g` one scale a row. `z` adds zero points. `a8` rounds
    the layer's input to 8 bits too, so that integer kernels run: to one range that calibration found, or with `a8t` to a range
    of each token's own. `f8` and `f8a8t` are the same in FP8, one scale a row, for Hugging Face folders.
    """

    do: Literal["quantise"] = "quantise"
    method: str = "gptq"
    rows: int = Field(512, ge=1, description="calibration rows")
    range: Literal["minmax", "percentile", "mse"] = "mse"
    migrate: Literal["awq", "smooth", "both"] | None = Field(
        None, description="scales that move from weights to norms first, of models that were not built here"
    )
    modality_weights: dict[str, float] = Field(
        {}, description="what a token of each modality counts in calibration; 1 where it is not named; likewise"
    )
    layers: dict[str, str] = {}
    components: dict[str, str] = Field(
        {}, description="by component name or pattern, of models that were not built here"
    )

    @field_validator("layers", "components")
    @classmethod
    def _known(cls, layers: dict[str, str]) -> dict[str, str]:
        for name, text in layers.items():
            if text != "fp32" and not SCHEME.fullmatch(text):
                raise ValueError(f"{name}: {text!r} is not a scheme; write fp32, w8a8, w8, w4g32 and the like")
        return layers


Pass = Annotated[Prune | Drop | Sparsify | Distil | Quantise, Field(discriminator="do")]


class Plan(Settings):
    """A list of passes, and what the planner expected of them."""

    version: Literal[1] = 1
    model: str = Field("", description="SHA-256 of the model it was made for; empty: any")
    why: str = ""
    predicted: dict[str, float] = {}
    passes: tuple[Pass, ...]

    @model_validator(mode="after")
    def _order(self) -> "Plan":
        kinds = [step.do for step in self.passes]
        if "quantise" in kinds[:-1]:
            raise ValueError(
                "`quantise` must be the last pass, for the passes after it would move the weights off their grid"
            )
        return self


def scheme(text: str, method: str) -> LayerScheme:
    """The scheme that a word of the plan stands for, such as "w4g32"."""
    match = SCHEME.fullmatch(text)
    if text == "fp32" or match is None:
        return LayerScheme(weight=None, activation=None, method=method)
    if match["bits"] is None:
        rounded = bool(match["float"])
        return LayerScheme(weight=GRID, activation=8 if rounded else None, per_token=rounded, method="float8")
    group = int(match["group"]) if match["group"] else None
    grid = Grid(bits=int(match["bits"]), group=group, symmetric=not match["zero"])
    return LayerScheme(
        weight=grid, activation=8 if match["activation"] else None, per_token=bool(match["token"]), method=method
    )


def word(scheme: LayerScheme) -> str:
    """The word of a scheme, whatever its method."""
    grid = scheme.weight
    if grid is None:
        return "fp32"
    if grid.number == "float":
        return "f8a8t" if scheme.activation else "f8"
    group, zero = f"g{grid.group}" if grid.group else "", "" if grid.symmetric else "z"
    return f"w{grid.bits}{group}{zero}{'a8' if scheme.activation else ''}{'t' if scheme.per_token else ''}"


def read_plan(path: Path) -> Plan:
    """Read and validate a plan file.

    Raises:
        InputError: not YAML, an unknown key, or a scheme that does not exist.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"There is no plan {path}.", "Make one with `triptych compress ... --dry-run`.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}.", "Mend it.") from error
    plan: Plan = parse(Plan, content, str(path))
    return plan


def write_plan(plan: Plan) -> str:
    """The plan as YAML for people."""
    return yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def check_names(plan: Plan, *, layers: Iterable[str], widths: Mapping[str, int], blocks: Iterable[str]) -> None:
    """Refuse a plan that names what the model does not have, before any work.

    Raises:
        InputError: names the unknown layer, width or block and the nearest known one.
    """
    for step in plan.passes:
        if isinstance(step, Prune):
            _known("width", step.keep, widths)
            for name, keep in step.keep.items():
                if not 1 <= keep <= widths[name]:
                    raise InputError(
                        f"The plan keeps {keep} units of {name!r}, which has {widths[name]}.",
                        f"Keep 1 to {widths[name]}.",
                    )
        elif isinstance(step, Drop):
            _known("block", step.blocks, blocks)
        elif isinstance(step, Quantise):
            _known("layer", step.layers, layers)


def _known(what: str, named: Iterable[str], there: Iterable[str]) -> None:
    known = list(there)
    for name in named:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]!r}?" if near else "`triptych inspect` lists the names."
            raise InputError(f"The plan names the {what} {name!r}, which is not in the model.", hint)
