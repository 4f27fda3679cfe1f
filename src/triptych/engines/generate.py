"""Generating tokens one by one, whatever runs the model: one `generate` over decoders that keep their own cache.

A decoder is ONNX Runtime with our codes (`engines.onnxruntime`), the fastest that was measured, or PyTorch. Pictures go through an
encoder first (`engines.pictures`): OpenVINO with our codes in an exported folder, or PyTorch.
"""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from triptych.decoders.search import Sampler
from triptych.engines.onnxruntime import OnnxDecoder
from triptych.engines.pictures import open_encoder, placed
from triptych.errors import InputError


@runtime_checkable
class Decoder(Protocol):
    """A language model that remembers what it read."""

    name: str
    threads: int | None  # as asked for; None is the engine's own choice
    vocabulary: int
    end: tuple[int, ...]  # tokens that end an answer

    def reset(self, capacity: int) -> None:
        """Forgets what was read and makes room for `capacity` tokens."""
        ...

    def __call__(
        self, ids: Int[np.ndarray, " tokens"], embeds: Float[np.ndarray, "tokens width"] | None = None
    ) -> Float[np.ndarray, " vocabulary"]:
        """Reads tokens, an id of -1 taking its vector from `embeds`; the logits of what comes next."""
        ...


def cache_name(model: PreTrainedModel) -> str:
    """What the forward of a model calls its cache; transformers 5.24 renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


class TorchDecoder:
    """A Hugging Face model in PyTorch, the reference: a `Decoder`.

    Args:
        model: makes logits from inputs_embeds; put into evaluation mode.
        threads: PyTorch's threads within a product while it runs; None leaves them as they are.
    """

    name = "torch"

    def __init__(self, model: PreTrainedModel, threads: int | None = None) -> None:
        self.model, self.threads = model.eval(), threads
        self.embed: Any = model.get_input_embeddings()
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        end = getattr(model.generation_config, "eos_token_id", None)
        self.end: tuple[int, ...] = () if end is None else (end,) if isinstance(end, int) else tuple(end)
        self.reset(0)

    def reset(self, capacity: int) -> None:  # noqa: ARG002 - this cache grows
        """Forgets what was read."""
        self.cache = DynamicCache(config=self.model.config.get_text_config())

    def __call__(
        self, ids: Int[np.ndarray, " tokens"], embeds: Float[np.ndarray, "tokens width"] | None = None
    ) -> Float[np.ndarray, " vocabulary"]:
        """Reads tokens, an id of -1 taking its vector from `embeds`; the logits of what comes next."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with torch.inference_mode():
                given = torch.from_numpy(ids)[None]
                vectors = self.embed(given.clamp(min=0))
                if embeds is not None:
                    other = torch.from_numpy(embeds)[None].to(vectors.dtype)
                    vectors = torch.where(given[..., None] < 0, other, vectors)
                output = self.model(inputs_embeds=vectors, use_cache=True, **{cache_name(self.model): self.cache})
                return output.logits[0, -1].float().numpy()
        finally:
            torch.set_num_threads(before)


def stream(
    decoder: Decoder,
    input_ids: Int[Tensor, "1 tokens"] | None = None,
    inputs_embeds: Float[Tensor, "1 tokens width"] | None = None,
    *,
    max_new_tokens: int,
    end: frozenset[int] = frozenset(),
    sampler: Sampler | None = None,
) -> Iterator[int]:
    """The next tokens, each as soon as it is known; as `generate`."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}.", "Ask for one token or more.")
    ids, embeds = _prompt(input_ids, inputs_embeds)
    decoder.reset(len(ids) + max_new_tokens - 1)
    logits = decoder(ids, embeds)
    for made in range(1, max_new_tokens + 1):
        token = int(logits.argmax()) if sampler is None else int(sampler(torch.from_numpy(logits)[None]))
        yield token
        if token in end or made == max_new_tokens:
            return
        logits = decoder(np.array([token]))


def generate(
    source: Decoder | PreTrainedModel | Path,
    input_ids: Int[Tensor, "1 tokens"] | None = None,
    inputs_embeds: Float[Tensor, "1 tokens width"] | None = None,
    *,
    pictures: Mapping[str, Tensor] | None = None,
    max_new_tokens: int,
    end: tuple[int, ...] | None = None,
    sampler: Sampler | None = None,
) -> Int[Tensor, "1 made"]:
    """The likeliest continuation of a prompt (greedy decoding), or a drawn one, with cached keys and values.

    Args:
        source: a decoder, a folder that `export.onnx` wrote, or a Hugging Face model, which PyTorch runs.
        input_ids: the prompt. With `inputs_embeds`, an id of -1 takes the vector at its place.
        inputs_embeds: vectors in the prompt's place, or parts of it: images and sound, already encoded.
        pictures: what the model's processor made of pictures, by name (`pixel_values` and what else it gives), whose
            places the prompt keeps; for a folder or a model, and without `inputs_embeds`.
        max_new_tokens: most tokens made.
        end: ids that end the answer; the one made last is kept. None for the model's own.
        sampler: draws the tokens.

    Returns:
        The new tokens alone.

    Raises:
        InputError: no prompt, an empty one, or one that does not fit the model or its pictures.
    """
    if pictures is not None:
        if input_ids is None or inputs_embeds is not None or not isinstance(source, Path | PreTrainedModel):
            raise InputError(
                "Pictures go with input_ids that keep their places, into a folder or a model.",
                "Give them so, or encode them first and give inputs_embeds.",
            )
        input_ids, inputs_embeds = placed(*open_encoder(source), input_ids, pictures)
    decoder = as_decoder(source)
    stops = frozenset(decoder.end if end is None else end)
    made = stream(decoder, input_ids, inputs_embeds, max_new_tokens=max_new_tokens, end=stops, sampler=sampler)
    return torch.tensor([list(made)], dtype=torch.long)


def as_decoder(source: Decoder | PreTrainedModel | Path, threads: int | None = None) -> Decoder:
    """The decoder of a folder or a model; a decoder is returned as it is."""
    if isinstance(source, Path):
        return OnnxDecoder(source / "decoder.onnx", threads)
    return TorchDecoder(source, threads) if isinstance(source, PreTrainedModel) else source


def _prompt(
    input_ids: Int[Tensor, "1 tokens"] | None, inputs_embeds: Float[Tensor, "1 tokens width"] | None
) -> tuple[Int[np.ndarray, " tokens"], Float[np.ndarray, "tokens width"] | None]:
    lengths = {given.shape[1] for given in (input_ids, inputs_embeds) if given is not None}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(
            f"A prompt needs input_ids, inputs_embeds, or both of one length above zero; they have {sorted(lengths)}.",
            "Give at least one token.",
        )
    embeds = None if inputs_embeds is None else inputs_embeds[0].detach().float().numpy()
    ids = np.full(lengths.pop(), -1) if input_ids is None else input_ids[0].numpy()
    return ids, embeds
