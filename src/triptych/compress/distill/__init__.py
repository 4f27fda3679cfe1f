"""Distillation: losses by which a small model learns from the large one it came from."""

from triptych.compress.distill.affinity import AffinityDistillation
from triptych.compress.distill.features import FeatureDistillation
from triptych.compress.distill.logits import LogitsDistillation, softened_divergence
from triptych.compress.distill.regression import RegressionDistillation
from triptych.compress.distill.relational import RelationalDistillation, relational_loss
from triptych.compress.distill.similarity import SimilarityDistillation, similarity_loss

__all__ = [
    "AffinityDistillation",
    "FeatureDistillation",
    "LogitsDistillation",
    "RegressionDistillation",
    "RelationalDistillation",
    "SimilarityDistillation",
    "relational_loss",
    "similarity_loss",
    "softened_divergence",
]
