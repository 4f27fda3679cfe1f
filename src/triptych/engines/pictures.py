"""Pictures among the words: what a model's encoder and connector make of them, in the places that a prompt keeps for them.

The processor writes one image token for each vector that the model will make of a picture; those vectors take the tokens' places.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from triptych.engines import Engine
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError

NAME = "picture_encoder.xml"
TOKEN = ["triptych", "picture_token"]  # where the graph keeps the token's id


class PictureEncoder(nn.Module):
    """A model's vectors for pictures, one after another in one row: called as engines call a model.

    Args:
        model: with `get_image_features`, as transformers' vision-language models have it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(
        self,
        inputs: dict[str, Tensor],
        presence: Bool[Tensor, "1 modalities"],  # noqa: ARG002 - engines give it
    ) -> Float[Tensor, "1 values"]:
        """The vectors."""
        made = self.model.get_image_features(**inputs)
        made = getattr(made, "pooler_output", made)
        return torch.cat([part.flatten() for part in (made if isinstance(made, list | tuple) else [made])])[None]


def picture_token(model: PreTrainedModel) -> int:
    """The id that keeps a place.

    Raises:
        InputError: the model takes no pictures among its words.
    """
    config = model.config
    token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    if token is None or not callable(getattr(model, "get_image_features", None)):
        raise InputError(f"{type(model).__name__} takes no pictures among its words.", "Give it a prompt of words.")
    return int(token)


def open_encoder(source: PreTrainedModel | Path, threads: int | None = None) -> tuple[Engine, int]:
    """What encodes pictures for a model or an exported folder, and the token that keeps their places.

    Raises:
        InputError: it takes no pictures.
        ArtifactError: the folder's graph is damaged.
    """
    if not isinstance(source, Path):
        return TorchEngine(PictureEncoder(source), threads=threads), picture_token(source)
    if not (source / NAME).exists():
        raise InputError(
            f"{source} holds no {NAME}, so it takes no pictures.", "Export the model with an example of them."
        )
    engine = OpenVINOEngine.read(source / NAME, threads)
    return engine, int(engine.graph.get_rt_info(TOKEN).value)


def placed(
    encoder: Engine, token: int, ids: Int[Tensor, "1 tokens"], pictures: Mapping[str, Tensor]
) -> tuple[Int[Tensor, "1 tokens"], Float[Tensor, "1 tokens width"]]:
    """A prompt for `generate`: -1 where a picture's vectors are, and the vectors there.

    Args:
        encoder: see `open_encoder`.
        token: the id that keeps a place.
        ids: the prompt, as the processor wrote it.
        pictures: what the processor made of them, by name.

    Raises:
        InputError: the prompt keeps other places than the pictures need.
    """
    places = ids == token
    made = encoder(dict(pictures), torch.ones(1, len(pictures), dtype=torch.bool))[0]
    count = int(places.sum())
    if count == 0 or made.size % count:
        raise InputError(
            f"The prompt has {count} tokens {token} where pictures go, which does not fit {made.size} values.",
            "Give ids and pictures as the model's processor makes them from one prompt.",
        )
    vectors = torch.zeros(*ids.shape, made.size // count)
    vectors[places] = torch.from_numpy(made.reshape(count, -1))
    return ids.masked_fill(places, -1), vectors
