"""Fusions: each turns one vector a modality, and which modalities are present, into one vector a sample.

`sequence` and `context` give tokens; `separate` leaves the vectors as they are.
"""

from triptych.fusion import attention, bilinear, concat, context, gated, mean, separate, sequence, weighted

__all__ = ["attention", "bilinear", "concat", "context", "gated", "mean", "separate", "sequence", "weighted"]
