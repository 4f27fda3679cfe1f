"""What each modality gave to one answer: without it, and as its fair share of all (the Shapley value).

In words: v(S) is the amount (the probability of the class asked about) with only the modalities of S present. Without m: v(all
but m). The Shapley value of m is the mean, over all orders in which the modalities may arrive, of what m adds when it comes:

    phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! * (v(S + m) - v(S))

so that the values of a row sum to v(all) - v(none), and two modalities that only help together share alike.

Source: Shapley, A Value for n-Person Games, 1953; Lundberg and Lee, A Unified Approach to Interpreting Model Predictions,
NeurIPS 2017.
"""

from math import factorial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from triptych.errors import LimitError
from triptych.evaluate.explain.subject import Subject, fuse

MOST = 12  # modalities: 4,096 subsets


class Contribution(NamedTuple):
    """The amounts of every row with nothing, with everything and without each, and the fair share of each."""

    none: Float64[np.ndarray, " rows"]
    all: Float64[np.ndarray, " rows"]
    without: Float64[np.ndarray, "rows modalities"]
    shapley: Float64[np.ndarray, "rows modalities"]


def contribution(subject: Subject) -> Contribution:
    """Exact, over all subsets of the modalities; one that a row lacks gives it nothing.

    Raises:
        LimitError: the model has too many modalities for all their subsets.
    """
    values = subset_values(subject)
    everything = values.shape[1] - 1
    modalities = len(subject.model.fields)
    without = values[:, [everything ^ (1 << m) for m in range(modalities)]]
    return Contribution(values[:, 0], values[:, everything], without, shapley(values))


@torch.no_grad()
def subset_values(subject: Subject) -> Float64[np.ndarray, "rows subsets"]:
    """v(S) for every subset S; bit m of a subset's number says that modality m is in it.

    Raises:
        LimitError: the model has too many modalities for all their subsets.
    """
    modalities = len(subject.model.fields)
    if modalities > MOST:
        raise LimitError(
            f"The model reads {modalities} fields; shares are exact over all their subsets, and the limit is {MOST}.",
            "Explain a model of fewer fields.",
        )
    found = []
    for subset in range(2**modalities):
        kept = torch.tensor([bool(subset >> m & 1) for m in range(modalities)])
        found.append(subject.amounts(fuse(subject.model, subject.vectors, subject.batch.presence & kept)))
    return np.stack(found, axis=1)


def shapley(values: Float64[np.ndarray, "rows subsets"]) -> Float64[np.ndarray, "rows modalities"]:
    """The Shapley values of the modalities from the values of their subsets."""
    modalities = values.shape[1].bit_length() - 1
    shares = np.zeros((len(values), modalities))
    for subset in range(values.shape[1]):
        size = subset.bit_count()
        for m in range(modalities):
            if not subset >> m & 1:
                weight = factorial(size) * factorial(modalities - size - 1) / factorial(modalities)
                shares[:, m] += weight * (values[:, subset | 1 << m] - values[:, subset])
    return shares
