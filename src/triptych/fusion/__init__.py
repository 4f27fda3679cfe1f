"""Fusions: each turns one vector a modality, and which modalities are present, into one vector a sample; `sequence` joins tokens."""

from triptych.fusion import attention, bilinear, concat, gated, mean, sequence, weighted

__all__ = ["attention", "bilinear", "concat", "gated", "mean", "sequence", "weighted"]
