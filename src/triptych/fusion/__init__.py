"""Fusions: each turns one vector a modality, and which modalities are present, into one vector a sample."""

from triptych.fusion import attention, bilinear, concat, gated, mean, weighted

__all__ = ["attention", "bilinear", "concat", "gated", "mean", "weighted"]
