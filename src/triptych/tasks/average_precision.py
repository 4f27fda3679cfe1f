"""How good boxes are: hits, the average precision of one picture, and COCO's over many.

A box found is [class, probability, x0, y0, x1, y1], a box told [class, x0, y0, x1, y1]. Going from the most probable box found to the
least, each hits the told box of its class that it overlaps most, if the two have an IoU of 0.5 or more and no better one hit it before.

Source: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, evaluated by its authors' own pycocotools.
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

HIT = 0.5
SIDE = 1000.0  # shares of the sides as COCO's pixels, whose areas must not vanish


def pairwise_iou(a: Float32[np.ndarray, "a 4"], b: Float32[np.ndarray, "b 4"]) -> Float[np.ndarray, "a b"]:
    """Intersection over union of every box of one list with every box of the other."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low).clip(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    return both / np.maximum(areas[0][:, None] + areas[1] - both, 1e-12)


def matched(found: Float32[np.ndarray, "found 6"], told: Float32[np.ndarray, "told 5"]) -> Bool[np.ndarray, " found"]:
    """Which of the boxes found, the most probable first, are hits."""
    iou = np.where(found[:, None, 0] == told[:, 0], pairwise_iou(found[:, 2:], told[:, 1:]), 0.0)
    hits = np.zeros(len(found), dtype=bool)
    for i in range(len(found) if len(told) else 0):
        best = int(iou[i].argmax())
        if iou[i, best] >= HIT:
            hits[i] = True
            iou[:, best] = 0.0
    return hits


def row_precision(found: Float32[np.ndarray, "found 6"], told: Float32[np.ndarray, "told 5"]) -> float:
    """Average precision of one picture: over the boxes told, the best precision at the recall of each; the mean over its classes.

    Where nothing is told, one minus the greatest probability that something is there.
    """
    if not len(told):
        return 1.0 - float(found[:, 1].max(initial=0.0))
    values = []
    for label in np.unique(told[:, 0]):
        ours, theirs = found[found[:, 0] == label], told[told[:, 0] == label]
        hits = matched(ours, theirs)
        precision = hits.cumsum() / np.arange(1, len(hits) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        values.append(best[hits].sum() / len(theirs))
    return float(np.mean(values))


def average_precision(
    found: Float32[np.ndarray, "rows most 6"], told: Float32[np.ndarray, "rows boxes 5"], labels: Sequence[str]
) -> dict[str, float]:
    """COCO's average precision at an IoU of 0.5 (`map50`, and for each class that is told), and over 0.5 to 0.95 (`map`)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, ours = COCO(), COCO()
    images = [{"id": row} for row in range(len(told))]
    categories = [{"id": i, "name": label} for i, label in enumerate(labels)]
    for held, rows in ((truth, told), (ours, found)):
        held.dataset = {"images": images, "categories": categories, "annotations": list(_annotations(rows))}
    with redirect_stdout(io.StringIO()):  # it tells how long it took
        truth.createIndex()
        ours.createIndex()
        judged = COCOeval(truth, ours, "bbox")
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; -1 for a class that is not told
    by_class = {label: precision[0, :, i] for i, label in enumerate(labels) if (precision[0, :, i] > -1).any()}
    overall = {"map50": precision[0], "map": precision} | {f"ap50 {label}": p for label, p in by_class.items()}
    return {name: float(p[p > -1].mean()) if (p > -1).any() else 0.0 for name, p in overall.items()}


def _annotations(rows: Float32[np.ndarray, "rows boxes columns"]) -> Any:
    """The boxes as COCO writes them."""
    number = 0
    for row, boxes in enumerate(rows):
        for label, *scored, x0, y0, x1, y1 in boxes[boxes[:, 0] >= 0].astype(float).tolist():
            number += 1
            box = [x0 * SIDE, y0 * SIDE, (x1 - x0) * SIDE, (y1 - y0) * SIDE]
            beside = {"score": scored[0]} if scored else {}
            yield {
                "id": number,
                "image_id": row,
                "category_id": int(label),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                **beside,
            }
