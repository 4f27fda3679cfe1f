import numpy as np
import pytest
import torch

from triptych.data.frame import VOID, Frame
from triptych.data.overlay import Overlay
from triptych.data.target import Target
from triptych.errors import InputError
from triptych.tasks.places import on_grid
from triptych.tasks.segment import Segment

LABELS = ("sky", "road", "car")


def segment(**settings):
    return Segment(Segment.Config(labels=LABELS, picture=(12, 16), size=(12, 16), **settings), 8)


def target(kind="mask"):
    frame = Frame(size=(12, 16), resize="squash")
    return Target(
        name="m", kind=kind, labels=LABELS, overlay=Overlay(kind=kind, picture="p", frame=frame, size=(24, 32))
    )


@pytest.mark.parametrize(
    ("size", "places", "grid"),
    [((180, 240), 10_800, (90, 120)), ((181, 240), 690, (23, 30)), ((50, 70), 35, (5, 7))],
)
def test_tokens_find_their_grid(size, places, grid):
    tokens = torch.arange(float(places)).view(1, places, 1)
    laid = on_grid(tokens, size)
    assert laid.shape[1:3] == grid
    assert torch.equal(laid.flatten(1, 2), tokens)


def test_tokens_without_a_grid_are_refused():
    with pytest.raises(InputError, match=r"The 197 tokens of the encoder lie on no grid over a picture of 224 x 224"):
        on_grid(torch.zeros(1, 197, 4), (224, 224))


def test_void_pixels_cost_nothing_and_weights_count():
    task = segment(class_weights=(1.0, 2.0, 0.5))
    logits = torch.randn(2, 6, 8, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 12, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    labels[:, :6] = VOID
    coarse = labels[:, 1::2, 1::2].long()  # the nearest of four pixels
    weights, log_p = torch.tensor([1.0, 2.0, 0.5]), logits.log_softmax(-1)
    known = [(r, y, x) for r in range(2) for y in range(3, 6) for x in range(8)]
    costs = [-log_p[place][coarse[place]] * weights[coarse[place]] for place in known]
    assert float(task.loss(logits, labels)) == pytest.approx(float(sum(costs) / sum(weights[coarse[p]] for p in known)))
    assert float(task.loss(logits, torch.full_like(labels, VOID))) == 0.0


def test_dice_is_nothing_for_what_is_surely_right():
    labels = torch.randint(0, 3, (1, 12, 16)).to(torch.uint8)
    logits = 50 * torch.nn.functional.one_hot(labels.long(), 3).float()
    assert float(segment(dice=1.0).loss(logits, labels)) == pytest.approx(0, abs=1e-6)
    wrong = segment(dice=1.0).loss(logits.roll(1, -1), labels) - segment().loss(logits.roll(1, -1), labels)
    assert float(wrong) == pytest.approx(1)


def test_what_is_kept_is_the_likeliest_class_at_full_size():
    logits = np.zeros((1, 6, 8, 3), dtype=np.float32)
    logits[:, :, :4, 1], logits[:, :, 4:, 2] = 5, 5
    kept = segment().settle(logits)
    assert kept.dtype == np.uint8
    assert kept.shape == (1, 12, 16)
    assert (kept[0, :, :8] == 1).all()
    assert (kept[0, :, 8:] == 2).all()


def test_scores_average_over_the_classes_of_the_mask():
    told = np.zeros((3, 12, 16), dtype=np.uint8)
    told[0, :, 8:], told[1], told[2, :6] = 1, VOID, VOID
    said = np.zeros_like(told)
    said[0, :, 12:], said[2, 6:, :4] = 1, 2
    assert segment().scores(said, told) == pytest.approx([(96 / 144 + 48 / 96) / 2, 1, 72 / 96])


def test_metrics_are_over_all_pixels():
    told = np.zeros((2, 12, 16), dtype=np.uint8)
    told[1] = 1
    said = told.copy()
    said[0, 0] = 1
    found = segment().metrics(said, told)
    assert found["pixel_accuracy"] == pytest.approx(1 - 16 / 384)
    assert found["iou sky"] == pytest.approx(176 / 192)
    assert found["miou"] == pytest.approx((176 / 192 + 192 / 208) / 2)
    assert "iou car" not in found


def test_answers_say_what_is_there():
    told = np.zeros((1, 12, 16), dtype=np.uint8)
    told[0, :3], told[0, 11] = 1, VOID
    assert segment().answers(told)[0]["answer"] == "sky 73%, road 27%"
    assert segment().truth(np.full((12, 16), VOID, dtype=np.uint8)) == "nothing"


def test_rare_classes_weigh_more():
    masks = np.zeros((4, 24, 32), dtype=np.uint8)
    masks[0], masks[1, :2] = 1, VOID
    filled = Segment.fit({"class_weights": "balanced"}, target(), masks)
    assert (filled["picture"], filled["size"]) == ((12, 16), (24, 32))
    sky, road, car = filled["class_weights"]
    assert sky < road < car == pytest.approx(1 / np.log(1.02))


def test_it_needs_masks():
    with pytest.raises(InputError, match=r"The task segment learns masks, but the target m is a boxes"):
        Segment.fit({}, target("boxes"), np.zeros((1, 2, 2), dtype=np.uint8))
