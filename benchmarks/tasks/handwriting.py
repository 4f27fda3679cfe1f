"""Tables made of handwritten digits (MNIST, CC BY-SA): films of digits that move, and orders whose quantity is written by hand.

Every digit stands in one row alone; test rows have the digits of the pack's own test split.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.packs import pack, write_tables
from benchmarks.tasks.clips import encoded

DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
SIDE, FRAMES, DIGIT = 64, 16, 28  # of a film, and of a digit in it
FILMS = {"train": 12_000, "valid": 1_000, "test": 2_000}
DISCOUNTS = {"private": 0.0, "member": 0.1, "trade": 0.25}
ORDERS = {"train": 14_000, "valid": 1_000, "test": 2_000}
SEEDS = {"train": 0, "valid": 1, "test": 2}


def written(counts: dict[str, int], least: int = 0) -> Iterator[tuple[str, int, np.ndarray, int]]:
    """Split, place, picture and value of so many digits a split, none below `least`; valid rows come after training rows."""
    with np.load(pack("mnist_20k.npz")) as mnist:
        pictures, digits = ({s: mnist[f"{s}_{part}"] for s in ("train", "test")} for part in "xy")
    usable = {split: np.flatnonzero(digits[split] >= least) for split in digits}
    trained = counts["train"] + counts["valid"]
    places = {
        "train": usable["train"][: counts["train"]],
        "valid": usable["train"][counts["train"] : trained],
        "test": np.random.default_rng(0).permutation(usable["test"])[
            : counts["test"]
        ],  # the pack has them sorted by digit
    }
    for split, chosen in places.items():
        source = "test" if split == "test" else "train"
        for place in chosen:
            yield split, int(place), pictures[source][place], int(digits[source][place])


def moving(folder: Path) -> Path:
    """A film of a digit that drifts over plain or noisy ground: which digit is it, and where does it go?

    The ground is a torus on which the digit begins anywhere, so that no single frame says more about the direction than
    another: who looks at one frame is right a quarter of the time.
    """
    (folder / "films").mkdir(exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in FILMS}
    for split, place, picture, digit in written(FILMS):
        draw = np.random.default_rng((SEEDS[split], place))
        direction = str(draw.choice(list(DIRECTIONS)))
        name = f"films/{split}-{place}.mp4"
        if not (folder / name).exists():
            (folder / name).write_bytes(encoded(drifting(picture, DIRECTIONS[direction], draw)))
        rows[split].append({"film": name, "motion": f"{digit} {direction}"})
    return write_tables(folder, {"film": "video", "motion": "category:target"}, **rows)


def drifting(picture: np.ndarray, direction: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """Frames uint8 [FRAMES, SIDE, SIDE, 3] of a digit that moves 1 to 3 pixels a frame over grey ground or over noise."""
    level = draw.uniform(0, 80)
    ground = draw.uniform(0, level, (SIDE, SIDE)) if draw.random() < 0.5 else np.full((SIDE, SIDE), level)
    canvas = np.zeros((SIDE, SIDE))
    canvas[:DIGIT, :DIGIT] = picture * draw.uniform(0.6, 1.0)
    start, speed = draw.integers(0, SIDE, 2), draw.uniform(1, 3)
    places = [start + np.round(speed * time * np.array(direction)).astype(int) for time in range(FRAMES)]
    frames = np.stack([np.maximum(ground, np.roll(canvas, place, (0, 1))) for place in places])
    return np.repeat(frames.astype(np.uint8)[..., None], 3, axis=-1)


def order(folder: Path) -> Path:
    """What an order comes to: a quantity written by hand, the price of one, and the discount that the customer has.

    Prices and customers are drawn; the total is exact: quantity x price x (1 - discount).
    """
    (folder / "pictures").mkdir(exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in ORDERS}
    for split, place, picture, quantity in written(ORDERS, least=1):
        draw = np.random.default_rng((SEEDS[split], place))
        price, customer = round(float(draw.uniform(1, 20)), 2), str(draw.choice(list(DISCOUNTS)))
        name = f"pictures/{split}-{place}.png"
        if not (folder / name).exists():
            Image.fromarray(picture).save(folder / name)
        total = round(quantity * price * (1 - DISCOUNTS[customer]), 2)
        rows[split].append({"quantity": name, "price": price, "customer": customer, "total": total})
    schema = {"quantity": "image", "price": "number", "customer": "category", "total": "number:target"}
    return write_tables(folder, schema, **rows)
