"""Fusions: each turns one vector a modality, and which modalities are present, into one vector a sample.

`sequence` and `context` give tokens.
"""

from triptych.fusion import attention, bilinear, concat, context, gated, mean, sequence, weighted

__all__ = ["attention", "bilinear", "concat", "context", "gated", "mean", "sequence", "weighted"]
