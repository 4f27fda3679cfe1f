"""Pruning: importance of units, narrower layers, repaired consumers, fewer blocks, sparse weights."""

from triptych.compress.prune.allocation import allocate
from triptych.compress.prune.blocks import block_influence, drop, dropped
from triptych.compress.prune.magnitude import Magnitude
from triptych.compress.prune.refit import refitted, shrink_and_refit
from triptych.compress.prune.taylor import Taylor
from triptych.compress.prune.unstructured import Masks, Sparse, from_sparse, magnitude_masks, to_sparse
from triptych.compress.prune.width import resize, shapes_of, shrink

__all__ = [
    "Magnitude",
    "Masks",
    "Sparse",
    "Taylor",
    "allocate",
    "block_influence",
    "drop",
    "dropped",
    "from_sparse",
    "magnitude_masks",
    "refitted",
    "resize",
    "shapes_of",
    "shrink",
    "shrink_and_refit",
    "to_sparse",
]
