"""Compressing a Hugging Face model folder into another, on a machine that may be smaller than the model."""
