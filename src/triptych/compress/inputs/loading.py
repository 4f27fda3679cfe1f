"""The processor of a model folder, whole or in parts; code that comes with a folder is never run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
from transformers.processing_utils import ProcessorMixin

from triptych.errors import InputError
from triptych.models.config_keys import ConfigKeys

LOCAL = {"local_files_only": True, "trust_remote_code": False}
FAILURES = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError)
NAMING_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


class Parts:
    """Tokenizer, image processor and feature extractor of a folder that has no processor to join them."""

    def __init__(self, tokenizer: Any = None, image_processor: Any = None, feature_extractor: Any = None) -> None:
        self.tokenizer, self.image_processor, self.feature_extractor = tokenizer, image_processor, feature_extractor

    def __call__(
        self,
        text: list[str] | None = None,
        images: list[Any] | None = None,
        audio: list[Any] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **text_settings: Any,
    ) -> BatchFeature:
        """What each part makes of its share, together."""
        made: dict[str, Any] = {}
        if text is not None:
            made.update(self.tokenizer(text, return_tensors=return_tensors, **text_settings))
        if images is not None:
            made.update(self.image_processor(images, return_tensors=return_tensors))
        if audio is not None:
            rate = {"sampling_rate": sampling_rate} if sampling_rate else {}
            made.update(self.feature_extractor(audio, return_tensors=return_tensors, **rate))
        return BatchFeature(made)


def parts_of(processor: Any) -> dict[str, Any]:
    """By modality, the part of a processor that reads it."""
    names = processor.get_attributes() if isinstance(processor, ProcessorMixin) else list(vars(processor))
    found: dict[str, Any] = {}
    for name in names:
        part = getattr(processor, name, None)
        if part is None:
            continue
        if name == "tokenizer":
            found["text"] = part
        elif "video" in name:
            found["video"] = part
        elif "image" in name:
            found["image"] = part
        elif hasattr(part, "sampling_rate"):
            found["audio"] = part
    return found


def load_processor(folder: Path, config: PreTrainedConfig) -> Any:
    """The processor of a folder: whole, else without its video part (which needs torchvision), else its loose parts.

    Raises:
        InputError: there is none, or it needs a library or code that is not there.
    """
    attempts: list[Callable[[], Any]] = [
        lambda: AutoProcessor.from_pretrained(folder, **LOCAL),
        lambda: _without_video(folder, config),
        lambda: _loose(folder, config),
    ]
    reasons = []
    for attempt in attempts:
        try:
            loaded = attempt()
        except FAILURES as error:
            reasons.append(" ".join(str(error).split())[:300])
            continue
        if isinstance(loaded, ProcessorMixin | Parts):
            return loaded
        reasons.append(f"{type(loaded).__name__} is one part alone")
    torchvision = any("torchvision" in reason.lower() for reason in reasons)
    raise InputError(
        f"{folder} holds no processor that can be loaded: {reasons[0]}",
        "Install torchvision, which this processor needs, or bring batches of tensors."
        if torchvision
        else "Copy the processor's and tokenizer's files of the original model there, or bring batches of tensors.",
    )


def _without_video(folder: Path, config: PreTrainedConfig) -> Any:
    """A processor whose video part cannot be had reads everything else all the same."""
    kind = _processor_class(folder, config)
    names = kind.get_attributes()
    if not any("video" in name for name in names):
        raise ValueError("it has no video part to leave out")
    automatic = {"tokenizer": AutoTokenizer, "image": AutoImageProcessor}
    parts = []
    for name in names:
        auto = next((auto for word, auto in automatic.items() if word in name), AutoFeatureExtractor)
        parts.append(None if "video" in name else auto.from_pretrained(folder, **LOCAL))

    def check(self: Any, name: str, part: Any) -> Any:
        return kind.check_argument_for_proper_class(self, name, part) if part is not None else None

    lenient: Any = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
    settings, _ = kind.get_processor_dict(folder, **LOCAL)
    return lenient.from_args_and_dict(parts, settings)


def _processor_class(folder: Path, config: PreTrainedConfig) -> Any:
    for file in NAMING_FILES:
        path = folder / file
        name = json.loads(path.read_text(encoding="utf-8")).get("processor_class") if path.exists() else None
        if name:
            return processor_class_from_name(name)
    return PROCESSOR_MAPPING[type(config)]


def _loose(folder: Path, config: PreTrainedConfig) -> Parts:
    """Whatever parts there are; an Auto class may return a part of another kind, so each is looked at."""
    if ConfigKeys(config).placeholders():
        raise ValueError("loose parts do not know how many placeholders a medium takes")
    wanted = {
        "tokenizer": (AutoTokenizer, PreTrainedTokenizerBase),
        "image_processor": (AutoImageProcessor, ImageProcessingMixin),
        "feature_extractor": (AutoFeatureExtractor, FeatureExtractionMixin),
    }
    tokenized = any((folder / file).exists() for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))
    found = {}
    for name, (auto, kind) in wanted.items():
        if name == "tokenizer" and not tokenized:
            continue
        try:
            part = auto.from_pretrained(folder, **LOCAL)
        except FAILURES:
            continue
        if isinstance(part, kind):
            found[name] = part
    if not found:
        raise ValueError("no tokenizer, image processor or feature extractor either")
    return Parts(**found)
