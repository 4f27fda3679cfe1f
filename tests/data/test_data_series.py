"""Numbers over time: read, normalised, varied, refused."""

import numpy as np
import pytest
import torch

from triptych.data.cells import CellReader
from triptych.data.schema import guess
from triptych.data.series import SeriesFeatures, decode_series
from triptych.data.table import read_table
from triptych.encoders.rnn import RNNEncoder
from triptych.encoders.transformer import TransformerEncoder
from triptych.errors import InputError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for row in range(6):
        np.save(tmp_path / f"{row}.npy", (rng.normal(3.0, 2.0, (10 + row, 4))).astype(np.float16))
    return tmp_path


def fitted(folder, **settings):
    config = SeriesFeatures.Config(**settings)
    return SeriesFeatures(config).fit([f"{row}.npy" for row in range(6)], folder)


def test_channels_are_normalised_and_ends_are_zeros(folder):
    features = fitted(folder)
    assert features.shape.shape == (1, 4, 15)
    every = torch.stack([features.load(f"{row}.npy", folder, "here") for row in range(6)])
    assert (every[0, :, :, 10:] == 0).all()
    real = torch.cat([every[row, 0, :, : 10 + row] for row in range(6)], dim=1)
    torch.testing.assert_close(real.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(real.std(1, correction=0), torch.ones(4), atol=1e-4, rtol=0)
    again = SeriesFeatures.from_state(features.state())
    assert torch.equal(again.load("2.npy", folder, "here"), every[2])


def test_augmentation_leaves_padding_alone_and_repeats_with_its_seed(folder):
    features = fitted(folder, noise=0.5, stretch=0.2, mask_frames=3, mask_bands=1)
    stack = torch.stack([features.load(f"{row}.npy", folder, "here") for row in range(6)])
    assert torch.equal(features.features(stack), stack)
    once, twice = (features.features(stack, True, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once, twice)
    assert not torch.equal(once, stack)
    assert (once[0, :, :, 13:] == 0).all()  # ten steps, a fifth slower, are thirteen at most


def test_a_line_stretched_is_a_line():
    features = SeriesFeatures(SeriesFeatures.Config(steps=50, normalise="none", stretch=0.3, masks=0))
    line = torch.arange(50.0)[None, None, None, :].repeat(5, 1, 1, 1)
    out = features.features(line, True, torch.Generator().manual_seed(0))
    slope = out[:, 0, 0, 1:30] - out[:, 0, 0, :29]
    torch.testing.assert_close(slope, slope[:, :1].expand_as(slope), atol=1e-3, rtol=0)
    assert slope[:, 0].min() < 0.95
    assert slope[:, 0].max() > 1.05


def test_guessed_and_checked(folder):
    (folder / "table.jsonl").write_text(
        "\n".join(f'{{"x": "{row}.npy", "y": [[1, 2], [3, {row}]], "label": "{row % 2}"}}' for row in range(6))
    )
    table = read_table(folder / "table.jsonl")
    schema = guess(table)
    assert [field.kind for field in schema.inputs] == ["series", "series"]
    cell = CellReader().read("3.npy", "series", folder, "here")
    assert (cell.length, cell.problem) == (13.0, None)
    assert CellReader().read([[1, 1], [1, 1]], "series", folder, "here").dull == "constant"


def test_what_is_no_series_is_refused_by_name(folder):
    (folder / "text.npy").write_text("numbers")
    np.save(folder / "cube.npy", np.zeros((2, 2, 2)))
    np.save(folder / "nan.npy", np.array([[0.0, 1.0], [2.0, np.nan]]))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, said in (
        ("text.npy", r"row 3: text\.npy is no array of numbers"),
        ("objects.npy", r"row 3: objects\.npy is no array of numbers"),
        ("cube.npy", r"the shape 2 x 2 x 2, which is not \[steps, channels\]"),
        ("nan.npy", r"holds NaN or infinity at step 1, channel 1"),
        ("none.npy", r"there is no file"),
    ):
        with pytest.raises(InputError, match=said):
            decode_series(name, folder, "row 3")
    np.save(folder / "wide.npy", np.ones((5, 7)))
    with pytest.raises(InputError, match="has 7 channels, but those of the training rows have 4"):
        fitted(folder).load("wide.npy", folder, "row 3")


def test_encoders_read_series(folder):
    shape = fitted(folder).shape
    x = torch.randn(2, *shape.shape)
    stacked = RNNEncoder(RNNEncoder.Config(stack=4, hidden=5, width=6), shape)
    assert stacked(x).tokens.shape == (2, 4, 6)
    whole = RNNEncoder(RNNEncoder.Config(hidden=5, width=6), shape)
    assert whole(x).tokens.shape == (2, 15, 6)
    patched = TransformerEncoder(TransformerEncoder.Config(width=8, heads=2, layers=1, feedforward=8, patch=3), shape)
    assert patched(x).tokens.shape == (2, 5, 8)
