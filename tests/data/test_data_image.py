from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from triptych.data.image import ImageFeatures
from triptych.structure import Features


def features(**settings) -> ImageFeatures:
    return ImageFeatures(ImageFeatures.Config(**settings))


def picture(folder: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "a.png")
    return "a.png"


def halves(height: int, width: int) -> np.ndarray:
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3))
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return pixels


def test_size_is_one_number_or_two():
    assert features(size=32).shape == Features(kind="image", shape=(3, 32, 32))
    assert features(size=(16, 24), grey=True).shape.shape == (1, 16, 24)


def test_an_image_of_the_right_size_is_left_alone(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    loaded = features(size=8).load(picture(tmp_path, pixels), tmp_path, "here")
    assert torch.equal(loaded, torch.from_numpy(pixels.astype(np.uint8)).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("resize", "corner"), [("crop", [255, 0, 0]), ("squash", [255, 0, 0]), ("pad", [128, 128, 128])]
)
def test_other_aspect_ratios(tmp_path, resize, corner):
    loaded = features(size=8, resize=resize).load(picture(tmp_path, halves(16, 64)), tmp_path, "here")
    assert loaded.shape == (3, 8, 8)
    assert loaded[:, 0, 0].tolist() == corner
    assert loaded[:, 4, 1].tolist() == [255, 0, 0]
    assert loaded[:, 4, 6].tolist() == [0, 0, 255]


def test_grey(tmp_path):
    loaded = features(size=4, grey=True).load(picture(tmp_path, np.full((4, 4, 3), 200)), tmp_path, "here")
    assert loaded.unique().tolist() == [200]
    assert features(size=4, grey=True, normalise="imagenet").features(loaded[None]).shape == (1, 1, 4, 4)


def test_normalisation():
    stack = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert features(size=4).features(stack)[:, 0, 0, 0].tolist() == pytest.approx([-1.0, 1.0])
    imagenet = features(size=4, normalise="imagenet").features(stack)
    assert imagenet[0, :, 0, 0].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])


def test_normalised_by_data_set(tmp_path):
    rng = np.random.default_rng(0)
    cells = []
    for i in range(4):
        Image.fromarray(rng.integers(50 * i, 60 * i + 20, (6, 6, 3)).astype(np.uint8)).save(tmp_path / f"{i}.png")
        cells.append(f"{i}.png")
    fitted = features(size=6, normalise="dataset").fit(cells, tmp_path)
    stack = torch.stack([fitted.load(cell, tmp_path, "here") for cell in cells])
    x = fitted.features(stack)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    assert torch.equal(ImageFeatures.from_state(fitted.state()).features(stack), x)


def test_augmentation_depends_on_the_generator_alone():
    image = features(size=16)
    stack = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    first, again, other = (image.features(stack, True, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.abs().max() < 1.00001
    still = features(size=16, rotate=0, shift=0, crop=0, brightness=0, contrast=0, saturation=0)
    assert torch.equal(still.features(stack, True, torch.Generator()), still.features(stack))


def test_a_share_of_the_images_is_warped():
    stack = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8)
    colourless = {"brightness": 0, "contrast": 0, "saturation": 0}
    for share, low, high in ((0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)):
        image = features(size=8, warped=share, **colourless)
        x = image.features(stack, True, torch.Generator().manual_seed(0))
        assert low <= (x != image.features(stack)).flatten(1).any(1).sum() <= high
