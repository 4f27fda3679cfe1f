"""A model folder: config, weights (dense, or low-bit codes), processor. Written through `artifact.publish`, verified when read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from triptych import artifact
from triptych.compress.quantize.layers import QuantizedWeight, apply
from triptych.compress.quantize.storage import from_tensors, to_tensors
from triptych.data.processor import Processor
from triptych.data.schema import Schema
from triptych.data.splits import Splits, read_splits
from triptych.errors import ArtifactError
from triptych.models.fusion_model import FusionConfig, FusionModel

WEIGHTS = "model.safetensors"


@dataclass
class Loaded:
    """A model read from a folder, ready to run."""

    model: FusionModel
    processor: Processor
    quantized: dict[str, QuantizedWeight] = field(default_factory=dict)
    folder: Path | None = None
    sha256: str = ""

    def splits(self, data: Path) -> Splits:
        """The tables of DATA with what this model answers as their target; columns that it does not read are ignored.

        Raises:
            InputError: nothing is there, or it cannot be read.
        """
        splits = read_splits(data, answered=self.processor.target)
        strange = {field.name for field in splits.schema.inputs} - self.processor.features.keys()
        fields = [f.model_copy(update={"role": "ignore"}) if f.name in strange else f for f in splits.schema.fields]
        return replace(splits, schema=Schema(fields=tuple(fields)))


def write_model(
    folder: Path, model: FusionModel, processor: Processor, quantized: Mapping[str, QuantizedWeight] | None = None
) -> None:
    """Write the files of a model into a staging folder of `artifact.publish`.

    A quantised weight is stored as its codes, scales and zeros; its dense values are not stored.
    """
    quantized = dict(quantized or {})
    codes, scheme = to_tensors(quantized)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items() if name not in quantized}
    safetensors.torch.save_file({**tensors, **codes}, str(folder / WEIGHTS), metadata={"format": "pt"})
    config = model.config.to_dict()
    config["architectures"] = ["FusionModel"]
    if quantized:
        config["quantization_config"] = scheme
    (folder / "config.json").write_text(json.dumps(config, ensure_ascii=False, separators=(",", ":")) + "\n")
    processor.save(folder)


def read_model(folder: Path, *, verify: bool = True) -> Loaded:
    """Read a model folder; a damaged or half-copied one is refused by name.

    Raises:
        ArtifactError: the folder is not a model of ours, or a file of it is damaged.
    """
    sha256 = ""
    if verify:
        sha256 = artifact.verify(folder).sha256
    try:
        config_json = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder} holds no readable config.json ({error}).", "Point at a folder made by `triptych train`."
        ) from error
    if config_json.get("model_type") != "triptych":
        raise ArtifactError(
            f"{folder} holds a {config_json.get('model_type')!r} model, which this command cannot read yet.",
            "Point at a folder made by `triptych train`.",
        )
    scheme = config_json.pop("quantization_config", None)
    model = FusionModel(FusionConfig.from_dict(config_json))
    tensors = safetensors.torch.load_file(str(folder / WEIGHTS))
    quantized = from_tensors(tensors, scheme) if scheme else {}
    _load_dense(model, tensors, quantized, folder)
    apply(model, quantized)
    model.eval()
    return Loaded(model, Processor.load(folder), quantized, folder, sha256)


def _load_dense(model: FusionModel, tensors: dict[str, Tensor], quantized: Mapping[str, Any], folder: Path) -> None:
    """Load all that is stored dense; only the quantised weights may be missing."""
    expected = {name for name in model.state_dict() if name not in quantized}
    missing = sorted(expected - tensors.keys())
    if missing:
        raise ArtifactError(
            f"{folder / WEIGHTS} lacks the tensor {missing[0]!r} and {len(missing) - 1} more.", "Copy the folder again."
        )
    model.load_state_dict({name: tensors[name] for name in expected}, strict=False)
