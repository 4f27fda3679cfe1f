"""Encoders: each turns one modality's features into a vector a sample and the tokens it was pooled from."""

from triptych.encoders import cnn, mlp, pretrained, rbf, rnn, transformer

__all__ = ["cnn", "mlp", "pretrained", "rbf", "rnn", "transformer"]
