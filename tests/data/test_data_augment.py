import math

import pytest
import torch
from torch.nn import functional

from triptych.data import augment


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def warped(x, **strengths):
    return augment.warp(x, augment.draw_warps((len(x), *x.shape[2:]), draw(), **strengths))


def test_a_warp_of_no_strength_changes_nothing():
    x = torch.rand(5, 3, 9, 14)
    assert torch.allclose(warped(x), x, atol=1e-5)


def test_a_flip_mirrors_about_half_of_the_images():
    x = torch.rand(200, 1, 4, 7)
    y = warped(x, flip=True)
    same = torch.isclose(x, y, atol=1e-4).flatten(1).all(1)
    mirrored = torch.isclose(x.flip(3), y, atol=1e-4).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 70 < mirrored.sum() < 130


def test_a_rotation_turns_the_pixels_and_keeps_their_proportions():
    """A dot right of the centre of a wide image stays at its distance, whatever the angle."""
    height, width, distance = 41, 81, 15
    x = torch.zeros(50, 1, height, width)
    x[:, 0, 20, 40 + distance] = 1
    x = functional.avg_pool2d(x, 3, 1, 1)
    y = warped(x, rotate=90)
    rows, columns = torch.meshgrid(torch.arange(height) - 20.0, torch.arange(width) - 40.0, indexing="ij")
    mass = y.sum((1, 2, 3))
    down, right = (y[:, 0] * rows).sum((1, 2)) / mass, (y[:, 0] * columns).sum((1, 2)) / mass
    assert torch.allclose(torch.hypot(down, right), torch.tensor(float(distance)), atol=0.5)
    angles = torch.rad2deg(torch.atan2(down, right))
    assert angles.min() < -60
    assert angles.max() > 60


def test_shift_and_crop_stay_within_their_strength():
    ramp = torch.linspace(-1, 1, 64).expand(100, 1, 64, 64)  # a pixel's value is its place
    shifted = warped(ramp, shift=0.1)[:, 0, 32, 32]
    assert 0.15 < (shifted - ramp[0, 0, 32, 32]).abs().max() < 0.22  # 0.1 of a side of 2
    cropped = warped(ramp, crop=0.2)[:, 0, 32]
    span = (cropped[:, -1] - cropped[:, 0]) / 2
    assert span.min() > 0.78
    assert span.max() < 1.01
    assert cropped.min() >= -1


def test_recolour_follows_its_formula():
    """With one seed the factors can be read off grey and coloured pixels."""
    grey = torch.full((20, 3, 2, 2), 0.5)
    bright = augment.recolour(grey, draw(), brightness=0.3)
    factor = bright[:, 0, 0, 0] / 0.5
    assert (factor - 1).abs().max() <= 0.3
    assert torch.allclose(bright, bright[:, :1, :1, :1].expand_as(bright), atol=1e-6)
    assert torch.allclose(augment.recolour(grey, draw(), contrast=0.9), grey, atol=1e-6)
    assert torch.allclose(augment.recolour(grey, draw(), saturation=0.9), grey, atol=1e-6)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(20, 3, 2, 2)
    paler = augment.recolour(red, draw(), saturation=0.9)
    luminance = (paler * torch.tensor(augment.GREY).view(3, 1, 1)).sum(1)
    inside = (paler < 1).all(1) & (paler > 0).all(1)
    assert inside.any()
    assert torch.allclose(luminance[inside], torch.tensor(augment.GREY[0]), atol=1e-5)


def test_one_channel_has_no_colour():
    x = torch.rand(4, 1, 3, 3)
    assert torch.allclose(augment.recolour(x, draw(), saturation=0.9), x, atol=1e-6)


def test_time_shift_moves_and_never_wraps():
    x = torch.arange(1.0, 101).expand(60, 100)
    y = augment.shift_time(x, draw(), shift=0.2)
    for row in y:
        kept = row[row > 0]
        assert 80 <= len(kept) <= 100
        assert torch.equal(kept.diff(), torch.ones(len(kept) - 1))
    assert len({float(row[50]) for row in y}) > 10


@pytest.mark.parametrize("decibels", [6.0, 20.0])
def test_noise_has_the_ratio_that_was_asked_for(decibels):
    x = torch.sin(torch.arange(20_000) / 7).expand(3, -1) * torch.tensor([[0.0], [0.01], [1.0]])
    noise = augment.add_noise(x, draw(), decibels=(decibels, decibels)) - x
    assert not noise[0].any()
    for row in (1, 2):
        measured = 10 * math.log10(float(x[row].square().mean() / noise[row].square().mean()))
        assert measured == pytest.approx(decibels, abs=0.2)


def test_spectrogram_masks_are_stripes_of_limited_width():
    x = torch.ones(300, 1, 20, 30)
    y = augment.mask_spectrogram(x, draw(), bands=5, frames=8)
    dark_bands, dark_frames = (y == 0).all(3)[:, 0], (y == 0).all(2)[:, 0]
    assert dark_bands.sum(1).max() == 5
    assert dark_frames.sum(1).max() == 8
    rebuilt = ~(dark_bands[:, :, None] | dark_frames[:, None, :])
    assert torch.equal(y[:, 0].bool(), rebuilt)
    for dark in (dark_bands, dark_frames):
        edges = functional.pad(dark.int(), (1, 1)).diff(dim=1).abs().sum(1)
        assert edges.max() <= 2  # one run
        assert dark.any(0).all()  # everywhere
    assert torch.equal(augment.mask_spectrogram(x, draw(), bands=0, frames=0), x)


def test_a_mask_wider_than_the_spectrogram_is_cut_to_it():
    assert augment.mask_spectrogram(torch.ones(9, 1, 3, 4), draw(), bands=50, frames=50).shape == (9, 1, 3, 4)


def test_masks_and_boxes_follow_their_images():
    """One white rectangle on black, its mask and its box, moved alike."""
    height, width, (x0, y0, x1, y1) = 60, 80, (20, 15, 44, 39)
    ids = torch.zeros(40, height, width, dtype=torch.uint8)
    ids[:, y0:y1, x0:x1] = 1
    boxes = torch.tensor([[[1, x0 / width, y0 / height, x1 / width, y1 / height], [-1, 0, 0, 0, 0]]]).repeat(40, 1, 1)
    theta = augment.draw_warps((40, height, width), draw(), flip=True, shift=0.1, crop=0.3)
    images = augment.warp(ids.unsqueeze(1).float(), theta)[:, 0]
    masks, moved = augment.warp_masks(ids, theta), augment.warp_boxes(boxes, theta)
    known = masks != 255
    assert (~known).any()  # shifted by up to a tenth: something came from outside
    sharp = known & ((images < 0.01) | (images > 0.99))
    assert torch.equal(masks[sharp] == 1, images[sharp] > 0.5)
    assert (moved[:, 1, 0] == -1).all()
    for mask, box in zip(masks, moved[:, 0], strict=True):
        rows, columns = torch.nonzero(mask == 1, as_tuple=True)
        seen = torch.tensor(
            [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]
        )
        assert box[0] == 1
        assert torch.allclose(box[1:], seen, atol=1.5 / height)


def test_a_box_that_is_moved_out_of_the_image_is_gone():
    boxes = torch.tensor([[[2, 0.0, 0.0, 0.2, 0.2], [0, 0.5, 0.5, 1.0, 1.0]]])
    away = torch.tensor([[[1.0, 0, 0.3], [0, 1.0, 0.0]]])  # what lies 0.15 of the side to the right is shown
    moved = augment.warp_boxes(boxes, away)
    assert moved[0, :, 0].tolist() == [-1, 0]
    assert torch.allclose(moved[0, 1, 1:], torch.tensor([0.35, 0.5, 0.85, 1.0]))


def test_a_turned_box_holds_all_of_the_thing():
    theta = augment.draw_warps((30, 50, 50), draw(), rotate=40)
    boxes = torch.tensor([[[0, 0.4, 0.4, 0.6, 0.6]]]).repeat(30, 1, 1)
    ids = torch.zeros(30, 50, 50, dtype=torch.uint8)
    ids[:, 20:30, 20:30] = 1
    for mask, box in zip(augment.warp_masks(ids, theta), augment.warp_boxes(boxes, theta)[:, 0], strict=True):
        rows, columns = torch.nonzero(mask == 1, as_tuple=True)
        places = (torch.stack([columns, rows], 1) + 0.5) / 50
        assert ((places > box[1:3] - 0.011) & (places < box[3:] + 0.011)).all()
