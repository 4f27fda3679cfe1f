"""Models of tasks in which it is known what decides: a patch of a picture and one word of a text, and nothing else."""

import torch

from triptych.data.batch import Batch
from triptych.models.fusion_model import FusionConfig, FusionModel

SIDE, PATCH, WORDS = 32, 8, 6
ENCODERS = {
    "cnn": (
        {"name": "cnn", "widths": [16, 24, 32], "blocks": [1, 1, 1], "stem_stride": 1},
        {"name": "cnn", "widths": [16], "blocks": [1]},
    ),
    "transformer": (
        {"name": "transformer", "width": 24, "heads": 2, "layers": 1, "feedforward": 32, "patch": 4, "dropout": 0.0},
        {"name": "transformer", "width": 24, "heads": 2, "layers": 1, "feedforward": 32, "dropout": 0.0},
    ),
    "rbf": ({"name": "rbf", "patch": 4}, {"name": "rnn", "hidden": 16, "layers": 1}),
}


def build(picture, text, fusion=None, labels=("00", "01", "10", "11")):
    """A model of a picture, a text and a number."""
    inputs = {
        "picture": {"features": {"kind": "image", "shape": (3, SIDE, SIDE)}, "encoder": picture},
        "text": {"features": {"kind": "text", "shape": (WORDS,), "vocabulary": 12}, "encoder": text},
        "number": {"features": {"kind": "number", "shape": (1,)}, "encoder": {"name": "mlp", "width": 8, "hidden": 8}},
    }
    task = {"name": "classify", "labels": labels}
    config = FusionConfig(inputs=inputs, fusion=fusion or {"name": "concat", "width": 24}, task=task)
    return FusionModel(config).eval()


def draw(rows, seed):
    """Rows, and where in each the patch and the word stand that decide.

    The patch is red or green on noise, the word is 2 or 3 among words from 4 on; the number says nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.3 * torch.randn(rows, 3, SIDE, SIDE, generator=generator)
    texts = torch.randint(4, 12, (rows, WORDS), generator=generator)
    colour, key = torch.randint(2, (2, rows), generator=generator)
    corners = PATCH * torch.randint(SIDE // PATCH, (rows, 2), generator=generator)
    words = torch.randint(WORDS - 1, (rows,), generator=generator)
    texts[:, -1] = torch.where(torch.rand(rows, generator=generator) < 0.5, 0, texts[:, -1])  # some texts are shorter
    for row in range(rows):
        top, left = corners[row]
        pictures[row, colour[row], top : top + PATCH, left : left + PATCH] += 2
        texts[row, words[row]] = 2 + key[row]
    inputs = {"picture": pictures, "text": texts, "number": torch.randn(rows, 1, generator=generator)}
    batch = Batch(inputs, torch.ones(rows, 3, dtype=torch.bool), 2 * colour + key, torch.arange(rows))
    return batch, corners, words
