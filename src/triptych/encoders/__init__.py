"""Encoders: each turns one modality's features into a vector a sample and the tokens it was pooled from."""

from triptych.encoders import cnn, frames, mlp, pretrained, rbf, rnn, transformer, unet

__all__ = ["cnn", "frames", "mlp", "pretrained", "rbf", "rnn", "transformer", "unet"]
