"""Attention: which modalities asked which in the fusion, and from where in an encoder's input attention flowed.

Rollout, in words: A_l is layer l's attention averaged over heads, and 0.5 A_l + 0.5 I adds what its shortcut passes on; the product
of all layers says how much of each input token is in each output token. The row that is read is what the encoder pools: the class
token's, or the mean over real tokens. Attention says what was looked at, not whether it spoke for or against the answer.

Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 4.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from triptych.encoders.attention import Attention
from triptych.encoders.masked import masked_mean
from triptych.encoders.pretrained import PretrainedEncoder
from triptych.evaluate.explain.subject import Subject, fuse


@torch.no_grad()
def fusion_attention(subject: Subject) -> Float[Tensor, "rows asking asked"] | None:
    """How much each modality took from each other one, averaged over heads; None for a fusion without attention."""
    with _watched(subject.model.fusion) as seen:
        fuse(subject.model, subject.vectors, subject.batch.presence)
    return seen[0].mean(1) if seen else None


@torch.no_grad()
def rollout(subject: Subject, name: str) -> Float[Tensor, "rows tokens"] | None:
    """How much of each token is in what a field's encoder pools; None for an encoder without attention."""
    encoder = subject.model.encoders[name]
    with _watched(encoder) as seen:
        mask = encoder(subject.batch.inputs[name]).mask
    if not seen:
        return None
    flow = rolled_out(torch.stack([weights.mean(1) for weights in seen]))
    if isinstance(encoder, PretrainedEncoder) and getattr(encoder.model, "pooler", None) is not None:
        return flow[:, 0]
    return masked_mean(flow, mask)


def rolled_out(attention: Float[Tensor, "layers rows tokens tokens"]) -> Float[Tensor, "rows tokens tokens"]:
    """The product of 0.5 A + 0.5 I over the layers, the first layer applied first; rows sum to 1."""
    flow = torch.eye(attention.shape[-1]).expand(attention.shape[1:])
    for layer in attention:
        flow = 0.5 * (layer @ flow) + 0.5 * flow
    return flow


@contextmanager
def _watched(part: nn.Module) -> Iterator[list[Float[Tensor, "rows heads tokens tokens"]]]:
    """The attention of each layer that runs in the context, in order."""
    seen: list[Float[Tensor, "rows heads tokens tokens"]] = []

    def keep(attention: Any, inputs: tuple[Tensor, Bool[Tensor, "rows tokens"] | None]) -> None:
        seen.append(attention.weights(*inputs))

    def keep_all(_: nn.Module, __: Any, output: Any) -> None:
        seen.extend(weights for weights in getattr(output, "attentions", None) or () if weights is not None)

    handles = [m.register_forward_pre_hook(keep) for m in part.modules() if isinstance(m, Attention)]
    told = _told(part.model, keep_all) if isinstance(part, PretrainedEncoder) else nullcontext()
    try:
        with told:
            yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _told(backbone: Any, keep_all: Any) -> Iterator[None]:
    """Have a backbone compute its attention openly and return it, for fused kernels keep it to themselves."""

    def ask(_: nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
        return inputs, {**named, "output_attentions": True}

    fused = backbone.config._attn_implementation
    handles = [backbone.register_forward_pre_hook(ask, with_kwargs=True), backbone.register_forward_hook(keep_all)]
    backbone.set_attn_implementation("eager")
    try:
        yield
    finally:
        backbone.set_attn_implementation(fused)
        for handle in handles:
            handle.remove()
