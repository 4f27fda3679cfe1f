"""The one kind of model that Triptych builds: encoders -> projectors -> fusion -> task head.

    z_m = P_m(encoder_m(x_m))   where modality m is present,
    z_m = a_m                   a learned token where it is absent, or a guess from the others (see fusion.reconstruct),
    outputs = head(fusion(z_1, ..., z_M, presence))

For tasks that look at tokens (to write a text, to transcribe), z_m are all tokens of the encoder instead of the vector they are pooled to.
For tasks that compare modalities (to retrieve), the fusion passes the z_m on side by side.

It is a Hugging Face model: `save_pretrained`, `from_pretrained`, device maps and the Auto classes work. What pruning changed
(`shapes`, `dropped`) and what folding removed (`folded`) stand in the config, so a small model reloads without any code of its own.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from triptych.encoders.masked import masked_mean
from triptych.errors import InputError
from triptych.fusion.reconstruct import Reconstruction
from triptych.registry import build, find
from triptych.structure import Features, Memory, Width, passed_on, prefixed
from triptych.tasks import Task


class FusionConfig(PretrainedConfig):
    """Everything that is needed to build the model's modules.

    Args:
        inputs: by field name, `{"features": Features, "encoder": {"name": ..., settings}}`.
        fusion: `{"name": ..., "width": D, "reconstruct": R, settings}`; D is the width every modality is projected to. With R, the
            weight of its loss, an absent modality is guessed from the others.
        task: `{"name": ..., settings}`.
        shapes: by parameter name, the shapes that pruning changed.
        dropped: residual blocks that were replaced by the identity.
        folded: batch norms that were folded away, by the name of the layer before them: {norm: layer}.
    """

    model_type = "triptych"

    def __init__(
        self,
        inputs: dict[str, Any] | None = None,
        fusion: dict[str, Any] | None = None,
        task: dict[str, Any] | None = None,
        shapes: dict[str, list[int]] | None = None,
        dropped: list[str] | None = None,
        folded: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.inputs = inputs or {}
        self.fusion = fusion or {}
        self.task = task or {}
        self.shapes = shapes or {}
        self.dropped = dropped or []
        self.folded = folded or {}
        super().__init__(**kwargs)


@dataclass
class FusionOutput(ModelOutput):
    """The outputs of the task head, and the fused and per-modality vectors that distillation compares."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    fused: Tensor | None = None
    modalities: Tensor | None = None


class Projector(nn.Module):
    """norm(W x + b): every modality at one width, with each feature centred and scaled over the batch.

    Pooled ReLU features have a large common mean; products of uncentred vectors are nearly constant, and training stalls at
    chance for hundreds of steps. Compression folds the norm away.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch width"]:
        """The projected vector."""
        return self.norm(self.linear(x))


class TokenProjector(nn.Module):
    """norm(W x + b) of every token, each token normalised by itself."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "batch tokens inputs"]) -> Float[Tensor, "batch tokens width"]:
        """The projected tokens."""
        return self.norm(self.linear(x))


class FusionModel(PreTrainedModel):
    """Any number of encoders, one fusion, one task."""

    config_class = FusionConfig
    main_input_name = "inputs"
    _no_split_modules: ClassVar[list[str]] = []

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        if not config.inputs:
            raise InputError("A model needs at least one input.", "Name a column of the table under model.inputs.")
        width = int(config.fusion.get("width", 128))
        self.reads = _reads(config)
        projector = TokenProjector if self.reads == "tokens" else Projector
        self.encoders = nn.ModuleDict()
        self.projectors = nn.ModuleDict()
        for name, settings in config.inputs.items():
            features, asked = Features(**settings["features"]), settings["encoder"]["name"]
            kinds = find("encoder", asked).kinds
            if features.kind not in kinds:
                raise InputError(
                    f"Encoder {asked!r} does not read {features.kind}, which column {name!r} holds.",
                    f"It reads: {', '.join(sorted(kinds))}.",
                )
            encoder = self.encoders[name] = build("encoder", settings["encoder"], features)
            if hasattr(
                encoder, "config"
            ):  # a pretrained one has read its architecture, so that its folder is not needed again
                settings["encoder"] = {"name": asked, **encoder.config.model_dump(mode="json")}
            self.projectors[name] = projector(encoder.width, width)
        self.absent = nn.Parameter(torch.zeros(len(config.inputs), width))
        self.reconstruction = _reconstruction(config, self.reads, width)
        fusion = {key: value for key, value in config.fusion.items() if key not in ("width", "reconstruct")}
        self.fusion = build("fusion", fusion, len(config.inputs), width)
        self.task: Task = build("task", config.task, self.fusion.out_width)
        self.loss_function = self.task.loss  # transformers warns of models that name no loss
        self._restructure()
        self.post_init()

    def _restructure(self) -> None:
        """Give the modules the shapes that compression left, as the config states them."""
        from triptych.compress.prune.blocks import drop  # here: pruning is downstream of models
        from triptych.compress.prune.width import resize

        for name in self.config.dropped:
            drop(self, name)
        for norm, layer in self.config.folded.items():
            module = self.get_submodule(layer)
            if module.bias is None:
                module.bias = nn.Parameter(torch.zeros(module.weight.shape[0]))
            self.set_submodule(norm, nn.Identity())
        resize(self, self.config.shapes)

    def _init_weights(self, module: nn.Module) -> None:
        """Each component initialises itself in its constructor; nothing is to be drawn again."""

    def forward(
        self,
        inputs: dict[str, Tensor],
        presence: Bool[Tensor, "batch modalities"] | None = None,
        labels: Tensor | None = None,
    ) -> FusionOutput:
        """Predict from `inputs[field]` of shape [batch, ...]; `presence[:, m]` False replaces modality m by its learned token.

        `labels` (class indices, numbers for a regression, token ids for a text) add the task's loss to the output. A forced task is
        told them too: one that writes the true predecessors of each token, and its logits are those of the labels' tokens.
        """
        if presence is None:
            some = next(iter(inputs.values()))
            presence = torch.ones(len(some), len(inputs), dtype=torch.bool, device=some.device)
        read, z = self.read(inputs, presence)
        forced = labels is not None and getattr(self.task, "forced", False)
        logits = self.task(*read, labels) if forced else self.task(*read)
        loss = None if labels is None else self.task.loss(logits, labels)
        if loss is not None and self.reconstruction is not None:
            loss = loss + self.reconstruction.loss(z, presence)
        fused = masked_mean(*read) if isinstance(read, Memory) else read[0]
        return FusionOutput(loss=loss, logits=logits, fused=fused, modalities=z)

    def read(
        self, inputs: dict[str, Tensor], presence: Bool[Tensor, "batch modalities"]
    ) -> tuple[Memory | tuple[Tensor], Float[Tensor, "batch modalities width"]]:
        """What the task is given, the memory or what was fused; and the vector of each modality (of tokens, their mean)."""
        projected, masks = [], []
        for name, encoder in self.encoders.items():  # each with its projector: the components show in this order
            pooled, tokens, mask = encoder(inputs[name])
            project = self.projectors[name]
            projected.append(project(tokens) if self.reads == "tokens" else project(pooled).unsqueeze(1))
            masks.append(mask)
        if self.reads == "tokens":
            tokens = [torch.where(presence[:, m, None, None], x, self.absent[m]) for m, x in enumerate(projected)]
            z = torch.stack([masked_mean(*pair) for pair in zip(tokens, masks, strict=True)], dim=1)
            return self.fusion(tokens, masks), z
        z = torch.where(presence.unsqueeze(-1), torch.cat(projected, dim=1), self.absent.unsqueeze(0))
        if self.reconstruction is not None:
            z = torch.where(presence.unsqueeze(-1), z, self.reconstruction(z))
        return (self.fusion(z, presence),), z

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the inputs, in the order of the presence mask."""
        return tuple(self.encoders)

    def widths(self) -> list[Width]:
        """Every width that may shrink, named from the top of the model.

        What an encoder pools is read by its projector, so the width of it is whole only here.
        """
        shrinking = {prefix: part for prefix, part in self._parts().items() if hasattr(part, "widths")}
        found = [width for prefix, part in shrinking.items() for width in prefixed(prefix, part.widths())]
        for name, encoder in self.encoders.items():
            found += passed_on(f"encoders.{name}", encoder, f"projectors.{name}.linear.weight")
        return found

    def droppable(self) -> list[str]:
        """Residual blocks that may be left out whole, named from the top of the model."""
        holding = {prefix: part for prefix, part in self._parts().items() if hasattr(part, "droppable")}
        names = [f"{prefix}.{block}" for prefix, part in holding.items() for block in part.droppable()]
        return [name for name in names if name not in self.config.dropped]

    def _parts(self) -> dict[str, Any]:
        """The modules that may say what of them can go, by their name from the top of the model."""
        encoders = {f"encoders.{name}": encoder for name, encoder in self.encoders.items()}
        return {**encoders, "fusion": self.fusion, "task": self.task}


def _reads(config: FusionConfig) -> str:
    """Whether the task reads one vector, tokens, or the vectors of two modalities; the fusion must give them."""
    task, fusion = config.task["name"], config.fusion["name"]
    reads = getattr(find("task", task), "reads", "vector")
    if getattr(find("fusion", fusion), "gives", "vector") != reads:
        others = {"tokens": "sequence", "modalities": "separate"}
        some = others.get(str(reads), "bilinear, concat or another that gives one vector")
        raise InputError(
            f"The task {task!r} reads {reads}, which the fusion {fusion!r} does not give.", f"Choose {some}."
        )
    if reads == "modalities" and len(config.inputs) != 2:
        raise InputError(
            f"The task {task!r} matches two inputs with each other; there are {len(config.inputs)}: {', '.join(config.inputs)}.",
            "Give columns the role `ignore` until two are left, or join two into one.",
        )
    return str(reads)


def _reconstruction(config: FusionConfig, reads: str, width: int) -> Reconstruction | None:
    """What guesses absent modalities, where the recipe asks for it."""
    weight = float(config.fusion.get("reconstruct", 0))
    if not weight:
        return None
    if reads != "vector" or len(config.inputs) < 2:
        raise InputError(
            f"`reconstruct` guesses one vector from others, which {config.fusion['name']} of {len(config.inputs)} inputs does not have.",
            "Leave it out, or fuse several inputs into one vector.",
        )
    return Reconstruction(len(config.inputs), width, weight)


AutoConfig.register("triptych", FusionConfig)
AutoModel.register(FusionConfig, FusionModel)
