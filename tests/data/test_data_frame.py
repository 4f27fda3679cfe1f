import numpy as np
import pytest
import torch
from PIL import Image

from triptych.data.frame import VOID, Frame
from triptych.data.image import ImageFeatures


@pytest.mark.parametrize(
    ("resize", "seen"), [("squash", (0, 0, 120, 60)), ("crop", (30, 0, 90, 60)), ("pad", (0, -30, 120, 90))]
)
def test_what_is_seen(resize, seen):
    assert Frame(size=(20, 20), resize=resize).seen(120, 60) == seen


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (64, 64)])
def test_masks_are_cut_as_pictures_are(resize, width, height, tmp_path):
    """A picture in two greys and its mask, brought in by either way, agree but at the border between the two."""
    features = ImageFeatures(ImageFeatures.Config(size=(32, 48), resize=resize))
    ids = np.zeros((height, width), dtype=np.uint8)
    ids[: height // 3, width // 2 :] = 1
    Image.fromarray(np.repeat(ids[..., None] * 200 + 20, 3, axis=2)).save(tmp_path / "a.png")
    pixels = features.load("a.png", tmp_path, "here")[0].int()
    mask = torch.from_numpy(features.frame.mask_in(ids, (32, 48)))
    assert (mask == VOID).any() == (resize == "pad" and width * 32 != height * 48)
    sure = (mask != VOID) & (((pixels - 20).abs() < 8) | ((pixels - 220).abs() < 8))
    assert sure.float().mean() > (0.3 if resize == "pad" else 0.8)
    assert torch.equal(mask[sure] == 1, pixels[sure] > 120)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_there_and_back(resize):
    frame = Frame(size=(40, 40), resize=resize)
    ids = np.arange(60 * 90, dtype=np.uint32).reshape(60, 90).__floordiv__(200).astype(np.uint8)
    x0, y0, x1, y1 = (round(side) for side in frame.seen(90, 60))
    back = frame.mask_out(frame.mask_in(ids, (y1 - y0, x1 - x0)), 90, 60)
    assert np.array_equal(back[back != VOID], ids[back != VOID])
    assert (back == VOID).mean() == pytest.approx(1 / 3 if resize == "crop" else 0)
    boxes = np.array([[20, 10, 50, 40], [30, 0, 75, 60]], dtype=np.float32)
    np.testing.assert_allclose(frame.boxes_out(frame.boxes_in(boxes, 90, 60), 90, 60), boxes, atol=1e-4)


def test_boxes_end_at_the_edges_of_their_picture():
    frame = Frame(size=(20, 20), resize="pad")
    placed = frame.boxes_out(np.array([[0.0, 0.0, 1.0, 1.0]], dtype=np.float32), 100, 50)
    assert placed.tolist() == [[0, 0, 100, 50]]
