"""Losses, assignment and scores of masks and boxes against slow twins: loops that follow the words, and others' implementations."""

import numpy as np
import pytest
import torch
from transformers.loss.loss_for_object_detection import generalized_box_iou, sigmoid_focal_loss

from triptych.data.frame import VOID
from triptych.tasks.average_precision import average_precision, pairwise_iou, row_precision
from triptych.tasks.detect import Detect, assign, corners, generalised_iou
from triptych.tasks.segment import Segment, confusions, dice_loss

SEEDS = range(6)


def some_boxes(rng, count):
    """Corners of boxes within the picture."""
    low = rng.random((count, 2)) * 0.7
    return np.concatenate([low, low + 0.05 + rng.random((count, 2)) * 0.25], axis=1).astype(np.float32)


@pytest.mark.parametrize("seed", SEEDS)
def test_intersection_over_union_of_masks(seed):
    rng = np.random.default_rng(seed)
    told = rng.integers(0, 4, (3, 7, 9)).astype(np.uint8)
    said = np.where(rng.random(told.shape) < 0.6, told, rng.integers(0, 4, told.shape)).astype(np.uint8)
    told[rng.random(told.shape) < 0.2] = VOID
    expected = []
    for row in range(3):
        values = []
        for label in range(4):
            pixels = [(y, x) for y in range(7) for x in range(9) if told[row, y, x] != VOID]
            ours = {p for p in pixels if said[row][p] == label}
            theirs = {p for p in pixels if told[row][p] == label}
            if theirs:
                values.append(len(ours & theirs) / len(ours | theirs))
        expected.append(np.mean(values))
    task = Segment(Segment.Config(labels=("a", "b", "c", "d"), size=(7, 9), picture=(7, 9)), 4)
    np.testing.assert_allclose(task.scores(said, told), expected)
    counts = confusions(said, told, 4).sum(0)
    iou = [counts[i, i] / (counts[i].sum() + counts[:, i].sum() - counts[i, i]) for i in range(4)]
    assert task.metrics(said, told)["miou"] == pytest.approx(np.mean(iou))


@pytest.mark.parametrize("seed", SEEDS)
def test_dice(seed):
    torch.manual_seed(seed)
    logits, labels = torch.randn(30, 4), torch.randint(0, 3, (30,))  # the last class is not there
    p, values = logits.softmax(1), []
    for label in range(3):
        hit = sum(p[i, label] for i in range(30) if labels[i] == label)
        values.append(1 - 2 * hit / (p[:, label].sum() + (labels == label).sum()))
    assert float(dice_loss(logits, labels)) == pytest.approx(float(sum(values) / 3), rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_assignment(seed):
    rng = np.random.default_rng(seed)
    rows, columns, radius = 6, 9, 1.5
    boxes = np.concatenate([rng.integers(-1, 3, (2, 5, 1)), [some_boxes(rng, 5) for _ in range(2)]], axis=2)
    learned = assign(torch.from_numpy(boxes).float(), rows, columns, radius)
    for row in range(2):
        for place in range(rows * columns):
            x, y = (place % columns + 0.5) / columns, (place // columns + 0.5) / rows
            best = None
            for label, x0, y0, x1, y1 in boxes[row]:
                away = max(abs(x - (x0 + x1) / 2) * columns, abs(y - (y0 + y1) / 2) * rows)
                inside = x0 < x < x1 and y0 < y < y1
                area = (x1 - x0) * (y1 - y0)
                if label >= 0 and ((inside and away < radius) or away <= 0.5) and (best is None or area < best[0]):
                    best = (area, label, [x0, y0, x1, y1])
            assert learned.labels[row, place] == (-1 if best is None else best[1])
            if best is not None:
                np.testing.assert_allclose(learned.corners[row, place], best[2], rtol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_generalised_iou_and_focal_loss_are_those_of_transformers(seed):
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(some_boxes(rng, 12)) for _ in range(2))
    assert torch.allclose(generalised_iou(a, b), generalized_box_iou(a, b).diagonal(), atol=1e-5)

    torch.manual_seed(seed)
    boxes = torch.cat([torch.tensor([[0.0], [1.0], [2.0]]), torch.from_numpy(some_boxes(rng, 3))], 1)[None]
    task = Detect(Detect.Config(labels=("a", "b", "c"), picture=(8, 8)), 4)
    outputs = torch.randn(1, 8, 8, 7)
    learned = assign(boxes, 8, 8, 1.5)
    truth = torch.zeros(1, 64, 3)
    for place in (learned.labels[0] >= 0).nonzero()[:, 0]:
        truth[0, place, learned.labels[0, place]] = 1
    positives = int((learned.labels >= 0).sum())
    focal = sigmoid_focal_loss(outputs[..., :3].flatten(1, 2), truth, positives) * 64
    there = learned.labels >= 0
    overlap = (1 - generalised_iou(corners(outputs[..., 3:])[there], learned.corners[there])).mean()
    assert float(task.loss(outputs, boxes)) == pytest.approx(float(focal + overlap), rel=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_pairwise_iou(seed):
    rng = np.random.default_rng(seed)
    a, b = some_boxes(rng, 4), some_boxes(rng, 5)
    for i, (x0, y0, x1, y1) in enumerate(a):
        for j, (u0, v0, u1, v1) in enumerate(b):
            both = max(0, min(x1, u1) - max(x0, u0)) * max(0, min(y1, v1) - max(y0, v0))
            either = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - both
            assert pairwise_iou(a, b)[i, j] == pytest.approx(both / either, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_average_precision_of_one_row_is_cocos_but_for_its_101_steps(seed):
    rng = np.random.default_rng(seed)
    told = np.concatenate([rng.integers(0, 2, (6, 1)), some_boxes(rng, 6)], axis=1).astype(np.float32)
    near = told[rng.integers(0, 6, 14)]
    near[:, 1:] += rng.normal(0, 0.02, (14, 4)).astype(np.float32)
    chances = np.sort(rng.random(14).astype(np.float32))[::-1]
    found = np.concatenate([near[:, :1], chances[:, None], near[:, 1:]], axis=1)
    coco = average_precision(found[None], told[None], ("a", "b"))
    assert row_precision(found, told) == pytest.approx(coco["map50"], abs=0.02)
