"""Any Hugging Face backbone, from a local folder or by its name, frozen or fine-tuned; or a fresh one from its configuration.

In words: the backbone's own pooled output is the vector, or the mean of its last hidden states where it has none or
where the checkpoint does not hold the pooler's weights. Of a model with two towers the tower of our modality is taken,
of an encoder-decoder the encoder.

Shapes: image "batch channels height width", text "batch tokens" (with its padding mask), audio "batch 1 mels frames" as
the model's main input expects it. Hidden states "batch tokens width" are the tokens; feature maps "batch width height
width" are flattened into tokens. With `scales`, the last feature maps of so many resolutions, the coarsest ones, are enlarged
bilinearly to the finest of them and put side by side: the decoder of SegFormer up to its linear layers. With `patch`, a sound is
read so many frames at a time, as the backbone did when it learned; the pooled output of each patch is a token, their mean the vector.

Weights are read from safetensors only, and code that comes with a checkpoint is never run.

Sources: Wolf et al., Transformers: State-of-the-Art Natural Language Processing, EMNLP 2020; for `scales` Hariharan et al.,
Hypercolumns for Object Segmentation and Fine-grained Localization, CVPR 2015, and Xie et al., SegFormer, NeurIPS 2021; for `patch`
Hershey et al., CNN Architectures for Large-Scale Audio Classification, ICASSP 2017.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.encoders.masked import all_real, masked_mean, real_tokens
from triptych.errors import InputError
from triptych.registry import register
from triptych.structure import Encoded, Features, Modality, Settings, Width

TOWERS = {"image": "vision_model", "audio": "audio_model", "text": "text_model"}
UNUSED = ("id2label", "label2id", "architectures", "_name_or_path", "transformers_version")


class Architecture(Settings):
    """What it takes to build a backbone without its checkpoint, for a model folder that brings the weights itself."""

    backbone: dict[str, Any]
    pooler: bool
    width: int


@register("encoder", "pretrained")
class PretrainedEncoder(nn.Module):
    """A Hugging Face backbone for image, audio and text.

    Raises:
        InputError: there is no such backbone, its weights are not safetensors or not complete, or it does not read
            these features.
    """

    class Config(Settings):
        """`path` is a folder, or a name on the Hugging Face hub; `fresh` in its place is a configuration of transformers,
        `{model_type: segformer, ...}`, for random weights. A `frozen` backbone stays in eval mode and gets no gradients.
        Patches of `patch` frames begin every `patch_hop` frames, by default where the one before ends.

        `architecture` is filled in by the encoder (read it from its `config`) and makes `path` a mere note of the
        origin.
        """

        path: str = ""
        fresh: dict[str, Any] = {}
        frozen: bool = True
        scales: NonNegativeInt = 0
        patch: NonNegativeInt = 0
        patch_hop: NonNegativeInt = 0
        architecture: Architecture | None = None

        @model_validator(mode="after")
        def _weights_that_learn(self) -> "PretrainedEncoder.Config":
            if bool(self.path) == bool(self.fresh):
                raise ValueError("give one of `path` and `fresh`")
            if self.fresh and self.frozen:
                raise ValueError("fresh weights that are frozen learn nothing: say `frozen: false`")
            return self

    kinds: ClassVar[frozenset[Modality]] = frozenset({"image", "audio", "text"})

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        self.text, self.frozen = features.kind == "text", config.frozen
        known = config.architecture
        backbone = known.backbone if known else config.fresh
        whole, missing = (_make(backbone), []) if backbone else _load(config.path)
        self.scales = config.scales
        self.patch, self.patch_hop = config.patch, config.patch_hop or config.patch
        if config.patch and (features.kind != "audio" or features.shape[2] < config.patch):
            raise InputError(
                f"Patches of {config.patch} frames cannot be cut from {features.kind} features of {features.shape}.",
                "Leave `patch` out, or give longer sounds.",
            )
        self.model, prefix = _tower(whole, features)
        pooler = known.pooler if known else _complete([key for key in missing if key.startswith(prefix)], config.path)
        if not pooler:
            self.model.pooler = None
        if config.frozen:
            self.model.requires_grad_(requires_grad=False)
        self.train(self.training)
        self.width = known.width if known else self._try(features, config.path)
        described = {key: value for key, value in whole.config.to_dict().items() if key not in UNUSED}
        architecture = Architecture(backbone=described, pooler=pooler, width=self.width)
        self.config = config.model_copy(update={"architecture": architecture})

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """As `nn.Module.train`, but a frozen backbone stays in eval mode: its batch norms must not move either."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(self, x: Float[Tensor, "batch channels height width"] | Int[Tensor, "batch tokens"]) -> Encoded:
        """The backbone's pooled output and its last hidden states; with `patch` its pooled outputs."""
        if not self.patch:
            return self._read(x)
        begins = range(0, x.shape[3] - self.patch + 1, self.patch_hop)
        patches = torch.stack([x[..., begin : begin + self.patch] for begin in begins], dim=1)
        tokens = self._read(patches.flatten(0, 1)).pooled.unflatten(0, (-1, len(begins)))
        return Encoded(tokens.mean(1), tokens, all_real(tokens))

    def _read(self, x: Tensor) -> Encoded:
        mask = real_tokens(x) if self.text else None
        attention = {} if mask is None else {"attention_mask": mask.long()}
        every = {"output_hidden_states": True} if self.scales else {}
        output = self.model(**{self.model.main_input_name: self._arranged(x)}, **attention, **every, return_dict=True)
        if self.scales:
            tokens = _side_by_side(output.hidden_states, self.scales).flatten(2).transpose(1, 2)
            return Encoded(tokens.mean(1), tokens, all_real(tokens))
        tokens = output.last_hidden_state
        if tokens.ndim == 4:
            tokens = tokens.flatten(2).transpose(1, 2)
        pooled = getattr(output, "pooler_output", None)
        pooled = masked_mean(tokens, mask) if pooled is None else pooled.flatten(1)
        return Encoded(pooled, tokens, all_real(tokens) if mask is None else mask)

    def _arranged(self, x: Tensor) -> Tensor:
        """The features in the order of axes that goes with the name of the model's main input."""
        match self.model.main_input_name:
            case "pixel_values":  # a spectrogram is shown to all colour channels alike
                return x.expand(-1, getattr(self.model.config, "num_channels", x.shape[1]), -1, -1)
            case "input_features" if x.ndim == 4:  # Whisper: batch mels frames
                return x.squeeze(1)
            case "input_values" if x.ndim == 4:  # audio spectrogram transformer: batch frames mels
                return x.squeeze(1).transpose(1, 2)
        return x

    def _try(self, features: Features, path: str) -> int:
        """The width of the vector, found by encoding one sample of zeros."""
        sample = torch.ones(1, *features.shape, dtype=torch.long) if self.text else torch.zeros(1, *features.shape)
        vocabulary = getattr(self.model.config, "vocab_size", None)
        if self.text and vocabulary is not None and features.vocabulary > vocabulary:
            raise InputError(
                f"The text features have {features.vocabulary} ids, but the backbone {path!r} knows {vocabulary}.",
                "Use the tokenizer that belongs to the backbone.",
            )
        training = self.training
        try:
            with torch.no_grad():
                return self.eval()(sample).pooled.shape[1]
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            size = " x ".join(map(str, features.shape))
            raise InputError(
                f"The backbone {path!r} does not read {features.kind} features of {size}: {error}",
                "Choose a backbone for this modality, and features of the size it was trained on.",
            ) from error
        finally:
            self.train(training)

    def widths(self) -> list[Width]:
        """None are declared: what a foreign backbone couples is not known here."""
        return []

    def droppable(self) -> list[str]:
        """None, for the same reason."""
        return []


def _load(path: str) -> tuple[Any, list[str]]:
    """The model of a folder or hub name, and the names of its weights that the checkpoint lacks."""
    from transformers import AutoModel

    try:
        model, info = AutoModel.from_pretrained(
            path,
            local_files_only=Path(path).is_dir(),
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"No backbone could be loaded from {path!r}: {error}",
            "Give a folder with config.json and model.safetensors, or a name on the Hugging Face hub.",
        ) from error
    return model, sorted(info["missing_keys"])


def _make(backbone: Mapping[str, Any]) -> Any:
    """The model of a configuration with random weights, which a model folder may then fill."""
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.for_model(**backbone)
        return AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"No backbone can be made from this configuration: {error}",
            "Give `model_type` as transformers names it, and the settings of its configuration.",
        ) from error


def _side_by_side(maps: Sequence[Tensor], scales: int) -> Float[Tensor, "batch width height columns"]:
    """The last feature map of each of the `scales` coarsest resolutions, all at the finest of these."""
    last = {tuple(one.shape[2:]): one for one in maps if one.ndim == 4}
    if len(last) < scales:
        raise ValueError(f"it has feature maps of {len(last)} resolutions, not {scales}")
    chosen = list(last.values())[-scales:]
    size = chosen[0].shape[2:]
    return torch.cat([chosen[0], *(F.interpolate(one, size, mode="bilinear") for one in chosen[1:])], 1)


def _tower(model: Any, features: Features) -> tuple[Any, str]:
    """The part of a model that reads our modality, and the prefix of its weights' names."""
    name = TOWERS[features.kind]
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder(), "encoder."
    if hasattr(model, name):
        return getattr(model, name), f"{name}."
    return model, ""


def _complete(missing: list[str], path: str) -> bool:
    """Whether the checkpoint holds the pooler; everything else it must hold."""
    lost = [key for key in missing if "pooler" not in key.split(".")]
    if lost:
        raise InputError(
            f"The checkpoint {path!r} lacks {len(lost)} weights of its own model, among them {lost[0]!r}.",
            "Download it again, or choose another.",
        )
    return not missing
