"""A catalogue of tiny random-weight models, one of each family, built from config classes alone; and a way to rename all their parts.

Most widths divide by 32; `siglip2` has the awkward ones (its MLP of 86 stands for SigLIP's 4304, its patch embedding of 108 for 588).
"""

from families import language, pairs, towers  # noqa: F401 - each enters its models
from families.entry import FAMILIES
from families.renamed import renamed

__all__ = ["FAMILIES", "renamed"]
