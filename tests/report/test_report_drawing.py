import numpy as np

from triptych.data.frame import VOID, Frame
from triptych.data.overlay import Overlay
from triptych.report.drawing import colour, drawn, under_boxes, under_mask
from triptych.tasks import Detect, Segment

GREY = np.full((30, 60, 3), 128, dtype=np.uint8)


def test_a_mask_tints_what_it_knows():
    ids = np.full((30, 60), VOID, dtype=np.uint8)
    ids[:10], ids[10:20] = 0, 1
    tinted = under_mask(GREY, ids)
    assert (tinted[20:] == 128).all()
    assert len(np.unique(tinted.reshape(-1, 3), axis=0)) == 3
    assert len({colour(i) for i in range(60)}) == 60


def test_boxes_are_outlined_in_the_colour_of_their_class():
    shown = under_boxes(GREY, ("a", "b"), [{"label": "b", "box": [10, 5, 40, 25]}])
    assert tuple(shown[25, 30]) == colour(1)
    assert tuple(shown[15, 10]) == colour(1)
    assert (shown[2] == 128).all()
    assert (shown[20, 20] == 128).all()


def test_answers_and_truths_lie_where_they_are_seen():
    """Of a wide picture the square in the middle is seen; a mask covers that, and a box of all of it goes around it."""
    frame = Frame(size=(8, 8), resize="crop")
    mask = Overlay(kind="mask", picture="p", frame=frame, size=(30, 30))
    task = Segment(Segment.Config(labels=("a", "b"), picture=(8, 8), size=(30, 30)), 4)
    shown = drawn(GREY, mask, task, np.zeros((30, 30), dtype=np.uint8))
    changed = (shown != 128).any(-1)
    assert changed[:, 15:45].all()
    assert not changed[:, :15].any()
    assert not changed[:, 45:].any()

    boxes = Overlay(kind="boxes", picture="p", frame=frame)
    finder = Detect(Detect.Config(labels=("a", "b"), picture=(8, 8)), 4)
    told = np.array([[0, 0.1, 0.1, 0.9, 0.9], [-1, 0, 0, 0, 0]], dtype=np.float32)
    found = np.insert(told, 1, [0.9, 0.0], axis=1)
    unsure = np.insert(told, 1, 0.1, axis=1)
    assert np.array_equal(drawn(GREY, boxes, finder, told), drawn(GREY, boxes, finder, found))
    assert np.array_equal(drawn(GREY, boxes, finder, unsure), GREY)
    columns = np.flatnonzero((drawn(GREY, boxes, finder, told) != 128).any((0, 2)))
    assert (columns.min(), columns.max()) == (18, 42)
