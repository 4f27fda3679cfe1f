"""Find what belongs together: one modality's vector for another's, both ways.

Head: each vector is brought to length 1, so that a dot product is a cosine; the projectors before it are the heads of two towers.
Losses, over all pairs (a_i, b_j) of a batch, with a learned scale s and bias c:

    clip     -1/2 mean_i [log softmax_j(s a_i b_j)]_i + [log softmax_j(s a_j b_i)]_i    Radford et al., ICML 2021
    siglip   -sum_ij log sigmoid(y_ij (s a_i b_j + c)) / rows, y_ij = 1 or -1           Zhai et al., ICCV 2023

Rows of one identity (five captions of one photo) are no counterexamples of each other: clip leaves their pairs out, siglip counts
them as right. Quality: hit@k, the share of queries whose counterpart is among the k nearest of the table, both ways.
"""

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.compress.distill.affinity import AffinityDistillation
from triptych.data.target import Target
from triptych.registry import register
from triptych.structure import Settings, Width

SAME = 1e-5  # cosines that are nearer than this are equal: two runs of a tower on one cell differ by less
LARGEST = 100.0  # scale, as CLIP clips it
START = {"clip": (1 / 0.07, 0.0), "siglip": (10.0, -10.0)}  # scale and bias before training, as published
ROWS = 1024  # queries at a time: a table of captions has more pairs than memory has room for


@register("task", "retrieve")
class Retrieve(nn.Module):
    """Unit vectors of two modalities."""

    class Config(Settings):
        """`k` of the hit rate that is the quality."""

        loss: Literal["clip", "siglip"] = "clip"
        k: PositiveInt = 10

    reads: ClassVar[Literal["modalities"]] = "modalities"

    def __init__(self, config: Config, width: int) -> None:  # noqa: ARG002 - one signature for every task
        super().__init__()
        self.config = config
        self.metric = f"hit@{config.k}"
        scale, bias = START[config.loss]
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(bias)) if config.loss == "siglip" else None

    def forward(self, z: Float[Tensor, "batch modalities width"]) -> Float[Tensor, "batch modalities width"]:
        """The vectors at length 1."""
        return F.normalize(z, dim=-1)

    def loss(self, vectors: Float[Tensor, "batch 2 width"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The chosen loss; `labels` are the rows' identities."""
        first, second = vectors.unbind(1)
        logits = self.log_scale.exp().clamp(max=LARGEST) * first @ second.T
        together = labels[:, None] == labels
        if self.bias is not None:
            signs = together.to(logits) * 2 - 1
            return -F.logsigmoid(signs * (logits + self.bias)).sum(1).mean()
        pairs = torch.arange(len(labels), device=labels.device)
        logits = logits.masked_fill(together & (pairs[:, None] != pairs), -torch.inf)
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2

    def divergence(
        self, vectors: Float[Tensor, "*pairs width"], reference: Float[Tensor, "*pairs width"]
    ) -> Float[Tensor, ""]:
        """How otherwise than the reference the rows of a batch are matched, in nats; the two of a row stand one after another."""
        ours, theirs = (x.reshape(-1, 2, x.shape[-1]).unbind(1) for x in (vectors, reference))
        return AffinityDistillation()(ours, theirs)

    def widths(self) -> list[Width]:
        """None: what the head reads is the projectors'."""
        return []

    def scores(
        self, vectors: Float[np.ndarray, "rows 2 width"], labels: Int[np.ndarray, " rows"]
    ) -> Float64[np.ndarray, " rows"]:
        """Hit@k of each row against the whole table, mean of both ways; equal neighbours count with their chance of a place."""
        return np.mean([hits(*found, self.config.k) for found in both_ways(vectors, labels)], axis=0)

    def soft_scores(
        self, vectors: Float[np.ndarray, "rows 2 width"], labels: Int[np.ndarray, " rows"]
    ) -> Float64[np.ndarray, " rows"]:
        """The scores themselves: without a modality all neighbours are equal, and chance is counted, not tried."""
        return self.scores(vectors, labels)

    def metrics(self, vectors: Float[np.ndarray, "rows 2 width"], labels: Int[np.ndarray, " rows"]) -> dict[str, float]:
        """R@1, 5 and 10 and the median rank, each way, in the order of the inputs. A cell that stands in several rows asks once."""
        found: dict[str, float] = {}
        for side, (above, equal) in enumerate(both_ways(vectors, labels)):
            way = ("first_to_second", "second_to_first")[side]
            asked = distinct(vectors[:, side], labels)
            for k in (1, 5, 10):
                found[f"{way}_r{k}"] = float(hits(above, equal, k)[asked].mean())
            found[f"{way}_median_rank"] = float(np.median((above + (equal + 1) / 2)[asked]))
        return found

    def answers(self, vectors: Float[np.ndarray, "rows 2 width"]) -> list[dict[str, Any]]:
        """How like each other a row's two are, from -1 to 1. What is most like one of them, `triptych search` finds."""
        return [
            {"answer": f"{cosine:.3f}", "similarity": float(cosine)}
            for cosine in (vectors[:, 0] * vectors[:, 1]).sum(-1)
        ]

    def truth(self, label: Any) -> str:  # noqa: ARG002 - one signature for every task
        """Every row's two belong together."""
        return "as like as can be"

    @staticmethod
    def fit(config: dict[str, Any], target: Target, targets: np.ndarray) -> dict[str, Any]:  # noqa: ARG004 - as above
        """The config as it is: nothing is taken from the data."""
        return config


def hits(above: Int[np.ndarray, " rows"], equal: Int[np.ndarray, " rows"], k: int) -> Float64[np.ndarray, " rows"]:
    """The chance that the counterpart is among the first k: `above` are nearer, and it is one of `equal` that are as near."""
    return np.clip((k - above) / equal, 0.0, 1.0)


def both_ways(
    vectors: Float[np.ndarray, "rows 2 width"], labels: Int[np.ndarray, " rows"]
) -> list[tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]]:
    """For first -> second and second -> first: of each row, how many wrong cells are nearer than its nearest counterpart, and how
    many are as near, itself included.
    """
    return [ranks(vectors[:, side], vectors[:, 1 - side], labels) for side in (0, 1)]


def ranks(
    queries: Float[np.ndarray, "rows width"], others: Float[np.ndarray, "rows width"], labels: Int[np.ndarray, " rows"]
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """One way of `both_ways`."""
    gallery = distinct(others, labels)
    above, equal = np.empty(len(labels), dtype=np.int64), np.empty(len(labels), dtype=np.int64)
    for start in range(0, len(labels), ROWS):
        some = slice(start, start + ROWS)
        cosines = queries[some] @ others[gallery].T
        right = labels[some, None] == labels[gallery]
        best = np.where(right, cosines, -np.inf).max(1, keepdims=True)
        above[some] = ((cosines > best + SAME) & ~right).sum(1)
        equal[some] = ((np.abs(cosines - best) <= SAME) & ~right).sum(1) + 1
    return above, equal


def distinct(vectors: Float[np.ndarray, "rows width"], labels: Int[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """The rows whose vector no earlier row of the same identity has: a photo with five captions is one photo."""
    kept = np.ones(len(labels), dtype=bool)
    order = np.argsort(labels, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if len(rows) > 1:
            alike = vectors[rows] @ vectors[rows].T > 1 - SAME
            kept[rows] = ~np.tril(alike, -1).any(1)
    return kept
