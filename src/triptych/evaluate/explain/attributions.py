"""Integrated gradients: how much each token of a text speaks for or against an answer.

In words, with the embeddings e of a text's tokens, the embedding b of padding, and the output y that is asked about: the attribution
of token t is sum over features of (e_t - b) * integral from 0 to 1 of dy / de_t at b + s (e - b), ds. They sum to y of the text less y of
a blank of the same length.

Source: Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, ICML 2017, equations 1 and 3.
"""

import torch
from captum.attr import LayerIntegratedGradients
from jaxtyping import Float
from torch import Tensor, nn

from triptych.evaluate.explain.subject import Subject

STEPS = 32  # of the integral (Gauss-Legendre)
TOGETHER = 512  # texts run at a time


def token_attributions(subject: Subject, name: str, steps: int = STEPS) -> Float[Tensor, "rows tokens"] | None:
    """The attribution of each token, in units of the output; 0 for padding and in rows without the text.

    None where the encoder looks its tokens up in something else than an embedding.
    """
    parts = subject.model.encoders[name].modules()
    embedding = next((part for part in parts if isinstance(part, nn.Embedding)), None)
    if embedding is None:
        return None
    ids = subject.batch.inputs[name]
    with torch.enable_grad():
        found = LayerIntegratedGradients(subject.through(name), embedding).attribute(
            ids,
            baselines=torch.zeros_like(ids),  # padding
            target=subject.targets,
            additional_forward_args=(subject.vectors, subject.batch.presence),
            n_steps=steps,
            internal_batch_size=max(TOGETHER, len(ids)),
        )
    return found.detach().sum(-1).float()
