import numpy as np
import pytest
import torch

from triptych.data.frame import Frame
from triptych.data.overlay import Overlay
from triptych.data.target import Target
from triptych.errors import InputError
from triptych.tasks.average_precision import average_precision, matched, row_precision
from triptych.tasks.detect import Detect, assign, corners, suppressed

LABELS = ("cat", "dog")
CAT, DOG = 0, 1


def detect(**settings):
    return Detect(Detect.Config(labels=LABELS, picture=(32, 48), **settings), 8)


def perfect(labels, rows=8, columns=12):
    """Outputs that say exactly what the labels say."""
    learned = assign(labels, rows, columns, 1.5)
    outputs = torch.full((len(labels), rows, columns, 6), -12.0)
    flat = outputs.view(len(labels), -1, 6)
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    centre = torch.stack([x, y, x, y], -1).view(-1, 4)
    cells = torch.tensor([columns, rows, columns, rows])
    away = (learned.corners - centre).abs() * cells
    flat[..., 2:] = away.clamp(min=1e-6).log()
    for row, place in (learned.labels >= 0).nonzero().tolist():
        flat[row, place, learned.labels[row, place]] = 12.0
    return outputs


@pytest.fixture
def labels():
    boxes = [[[CAT, 0.1, 0.1, 0.4, 0.5], [DOG, 0.5, 0.4, 0.95, 0.9]], [[DOG, 0.3, 0.2, 0.5, 0.5], [-1, 0, 0, 0, 0]]]
    return torch.tensor(boxes)


def test_sides_are_cells_from_the_centre():
    d = torch.zeros(1, 2, 4, 4)
    d[0, 1, 2] = torch.tensor([0.5, 1.0, 2.0, 0.25]).log()
    box = corners(d)[0, 6]
    assert torch.allclose(box, torch.tensor([2.0 / 4, 0.5 / 2, 4.5 / 4, 1.75 / 2]))


def test_outputs_that_are_right_cost_nothing_and_are_found(labels):
    task, outputs = detect(), perfect(labels)
    assert float(task.loss(outputs, labels)) == pytest.approx(0, abs=1e-3)
    found = task.settle(outputs.numpy())
    assert task.scores(found, labels.numpy()).tolist() == [1, 1]
    assert task.soft_scores(found, labels.numpy()) == pytest.approx([1, 1])
    assert task.metrics(found, labels.numpy())["map"] == pytest.approx(1, abs=0.01)
    answers = task.answers(found)
    assert [answer["answer"] for answer in answers] == ["1 cat, 1 dog", "1 dog"]
    assert answers[1]["boxes"][0]["box"] == pytest.approx([0.3, 0.2, 0.5, 0.5], abs=1e-4)
    assert task.truth(labels[0].numpy()) == "1 cat, 1 dog"


def test_rows_without_a_thing_teach_that_there_is_none():
    task, nothing = detect(), torch.tensor([[[-1.0, 0, 0, 0, 0]]])
    sure, unsure = torch.full((1, 8, 12, 6), -12.0), torch.zeros(1, 8, 12, 6)
    assert float(task.loss(sure, nothing)) == pytest.approx(0, abs=1e-3)
    assert float(task.loss(unsure, nothing)) > 1
    found = task.settle(sure.numpy())
    assert task.scores(found, nothing.numpy()).tolist() == [1]
    assert task.answers(found)[0] == {"answer": "nothing", "boxes": []}


def test_gradients_reach_the_head(labels):
    task = detect(hidden=6)
    task.loss(task(torch.randn(2, 96, 8), torch.ones(2, 96, dtype=torch.bool)), labels).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.parameters())


def test_before_training_nothing_is_seen():
    task = detect()
    chance = task(torch.zeros(1, 96, 8), torch.ones(1, 96, dtype=torch.bool))[..., :2].sigmoid()
    assert torch.allclose(chance, torch.tensor(0.01))


def test_the_divergence_is_nothing_between_equals_and_grows(labels):
    task, reference = detect(), perfect(labels)
    assert float(task.divergence(reference, reference)) == 0
    drift = [float(task.divergence(reference + s * torch.ones(6), reference)) for s in (0.1, 0.5)]
    assert 0 < drift[0] < drift[1]
    flat = task.divergence((reference + 0.1).flatten(0, -2), reference.flatten(0, -2))
    assert float(flat) == pytest.approx(drift[0], rel=1e-5)


def test_of_boxes_that_overlap_the_best_stays_within_its_class():
    boxes = np.array(
        [[0, 0, 0.5, 0.5], [0.02, 0, 0.5, 0.5], [0, 0.01, 0.5, 0.5], [0.4, 0.4, 0.9, 0.9]], dtype=np.float32
    )
    assert suppressed(boxes, np.array([CAT, CAT, DOG, CAT]), 0.5).tolist() == [0, 2, 3]


def test_a_thing_is_hit_once():
    told = np.array([[CAT, 0, 0, 0.5, 0.5], [DOG, 0.5, 0.5, 1, 1]], dtype=np.float32)
    found = np.array(
        [
            [CAT, 0.9, 0, 0, 0.5, 0.5],
            [CAT, 0.8, 0, 0, 0.5, 0.45],
            [CAT, 0.7, 0.5, 0.5, 1, 1],
            [DOG, 0.6, 0.6, 0.6, 1, 1],
        ],
        dtype=np.float32,
    )
    assert matched(found, told).tolist() == [True, False, False, True]
    task = detect(threshold=0.65)
    padded = np.concatenate([found, np.full((2, 6), -1, dtype=np.float32)])[None]
    assert task.scores(padded, told[None]) == pytest.approx([2 * 1 / (3 + 2)])
    assert row_precision(found, told) == pytest.approx(1)
    assert row_precision(found[1:2], told) == pytest.approx(0.5)
    assert row_precision(found[:0], told) == 0


def test_average_precision_of_nothing_found():
    told = np.array([[[CAT, 0, 0, 0.5, 0.5]]], dtype=np.float32)
    none = np.full((1, 3, 6), -1, dtype=np.float32)
    assert average_precision(none, told, LABELS) == {"map50": 0, "map": 0, "ap50 cat": 0}


def test_it_needs_boxes():
    overlay = Overlay(kind="mask", picture="p", frame=Frame(size=(8, 8), resize="crop"))
    with pytest.raises(InputError, match=r"The task detect learns boxes, but the target m is a mask"):
        Detect.fit({}, Target(name="m", kind="mask", overlay=overlay), np.zeros((1, 1, 5), dtype=np.float32))
