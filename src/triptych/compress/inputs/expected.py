"""What a model's forward takes: its arguments, the modality that each carries, and the ids that stand for media.

Everything is read from the config and the signature of forward; no model is built and no family is known by name.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Int, Int64
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from triptych.errors import InputError
from triptych.models.config_keys import ConfigKeys, modality_of
from triptych.models.media import is_media
from triptych.models.tiny_batch import ModelBatch
from triptych.models.words import is_text

NAMES = ("text", "image", "video", "audio")  # what the codes of a language sequence count in
PADDING = -1  # the code of a position that no one looks at


class MisfitError(InputError):
    """What was brought does not belong to the model: no other row would fare better."""


@contextmanager
def accepted(model: nn.Module, batch: ModelBatch, called: str) -> Iterator[None]:
    """Around a run of the model on a batch: what it says of one that it cannot read becomes an error that names both.

    Raises:
        MisfitError: the model refused the batch.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        shapes = ", ".join(f"{n} {tuple(v.shape)}" for n, v in batch.inputs.items() if isinstance(v, Tensor))
        raise MisfitError(
            f"{type(model).__name__} does not accept {called} ({shapes}): {' '.join(str(error).split())[:300]}",
            "See that the processor in the model folder is the model's own, or bring batches of tensors.",
        ) from error


def carried(name: str) -> str | None:
    """The modality that an argument of forward carries by its name; None for masks, grids, sizes and positions."""
    return modality_of(name) if is_media(name) else "text" if is_text(name) else None


def token_modality(
    config: PreTrainedConfig, input_ids: Int[Tensor, "batch tokens"]
) -> tuple[Int64[Tensor, "batch tokens"], tuple[str, ...]]:
    """The modality of each position of a language sequence: a medium's where its placeholder stands, else text.

    Returns:
        codes: index of each position's modality in the names.
        names: always ("text", "image", "video", "audio").
    """
    codes = torch.zeros_like(input_ids, dtype=torch.int64)
    for modality, placeholder in ConfigKeys(config).placeholders().items():
        codes[input_ids == placeholder] = NAMES.index(modality)
    return codes, NAMES


@dataclass(frozen=True)
class Expected:
    """What one model takes.

    Attributes:
        folder: where the model lies.
        config: its config.
        architecture: name of its class.
        takes: arguments of its forward; None where the class is not known.
        needs: those of them that have no default.
    """

    folder: Path
    config: PreTrainedConfig
    architecture: str
    takes: frozenset[str] | None
    needs: frozenset[str]

    @cached_property
    def placeholders(self) -> dict[str, int]:
        """By modality, the id that holds its place in the language sequence."""
        return ConfigKeys(self.config).placeholders()

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities that forward has an argument for; all where forward is not known."""
        if self.takes is None:
            return frozenset(NAMES)
        return frozenset(m for name in self.takes if "decoder" not in name and (m := carried(name)))

    @property
    def generates(self) -> bool:
        """Whether a decoder of its own, which reads what the encoder made, writes text."""
        alone = any(value is True for value in ConfigKeys(self.config).find("use_decoder_only_language_model"))
        return self.takes is not None and "decoder_input_ids" in self.takes and not alone

    @property
    def vocabulary(self) -> int | None:
        """How many ids the language part knows."""
        for config in (self.config.get_text_config(), self.config):
            size = getattr(config, "vocab_size", None)
            if isinstance(size, int) and size > 0:
                return size + int(getattr(config, "additional_vocab_size", 0) or 0)
        return None

    @property
    def positions(self) -> int | None:
        """The longest language sequence."""
        names = ("max_target_positions", "max_text_positions", "max_position_embeddings")
        configs = (self.config, self.config.get_text_config())
        return next((n for c in configs for name in names if isinstance(n := getattr(c, name, None), int)), None)

    @property
    def decoder_start(self) -> int:
        """The id that a decoder of its own starts with."""
        configs = (self.config, self.config.get_text_config())
        names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
        return next((i for name in names for c in configs if isinstance(i := getattr(c, name, None), int)), 0)

    @property
    def mels(self) -> int | None:
        """How many mel bins the audio part reads, where the config says so."""
        parts = [self.config, *(v for v in vars(self.config).values() if isinstance(v, PreTrainedConfig))]
        return next((n for part in parts if isinstance(n := getattr(part, "num_mel_bins", None), int)), None)

    def batch(self, inputs: Mapping[str, Any], giver: str, codes: Tensor | None = None) -> ModelBatch:
        """A batch of these inputs.

        Args:
            inputs: arguments of forward.
            giver: what made them, for messages: "LlavaProcessor", "batch.safetensors".
            codes: [batch, tokens] in NAMES; found from the placeholders where they are not given.

        Raises:
            MisfitError: forward takes no such input, needs another, or has no row for an id.
            InputError: an input holds NaN or infinity.
        """
        self._refuse_unknown(inputs, giver)
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise InputError(f"{giver} gives NaN or infinity in {name}.", "Mend the sample.")
            if carried(name) == "text":
                self._refuse_ids(name, value, giver)
        language = next((inputs[name] for name in ("input_ids", "decoder_input_ids") if name in inputs), None)
        if codes is None and language is not None:
            codes = token_modality(self.config, language)[0]
            mask = inputs.get("attention_mask")
            if "input_ids" in inputs and isinstance(mask, Tensor) and mask.shape == codes.shape:
                codes = codes.masked_fill(mask == 0, PADDING)
        modality = {name: kind for name in inputs if (kind := carried(name)) is not None}
        return ModelBatch(dict(inputs), modality, codes, NAMES)

    def _refuse_unknown(self, inputs: Mapping[str, Any], giver: str) -> None:
        if self.takes is None:
            return
        unknown = sorted(set(inputs) - self.takes)
        missing = sorted(self.needs - set(inputs))
        if unknown or missing:
            said = f"does not take {', '.join(unknown)}" if unknown else f"also needs {', '.join(missing)}"
            raise MisfitError(
                f"{giver} gives {', '.join(inputs)}, but the forward of {self.architecture} {said}.",
                f"Put the processor that belongs to this model into {self.folder}, or bring batches of tensors.",
            )

    def _refuse_ids(self, name: str, ids: Tensor, giver: str) -> None:
        """Placeholders may lie beyond the vocabulary: models replace their vectors before they are looked up."""
        own = torch.tensor(list(self.placeholders.values()), dtype=ids.dtype)
        real = ids[~torch.isin(ids, own)]
        if self.vocabulary is None or not real.numel() or name not in ("input_ids", "decoder_input_ids"):
            return
        low, high = int(real.min()), int(real.max())
        if low < 0 or high >= self.vocabulary:
            raise MisfitError(
                f"{giver} gives the id {high if low >= 0 else low} in {name}, but {self.architecture} has a vocabulary "
                f"of {self.vocabulary:,} ids.",
                f"Put the tokenizer that belongs to this model into {self.folder}.",
            )


def read_expected(folder: Path) -> Expected:
    """What the model of a folder takes.

    Raises:
        InputError: no config there that transformers can read.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"transformers cannot read the config of {folder}: {' '.join(str(error).split())[:300]}",
            "Point at a model folder of a type that transformers knows.",
        ) from error
    name = (config.architectures or [type(config).__name__])[0]
    return expected_of(folder, config, name, getattr(transformers, name, None))


def expected_of(folder: Path, config: PreTrainedConfig, name: str, kind: Any) -> Expected:
    """What a class of that name takes, if it is one that can run."""
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)) or kind.forward is nn.Module.forward:
        return Expected(folder, config, name, None, frozenset())
    arguments = list(inspect.signature(kind.forward).parameters.values())[1:]
    named = [a for a in arguments if a.kind not in (a.VAR_KEYWORD, a.VAR_POSITIONAL)]
    needs = frozenset(a.name for a in named if a.default is a.empty)
    return Expected(folder, config, name, frozenset(a.name for a in named), needs)
