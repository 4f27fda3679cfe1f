"""A frame of a street and a sound beside it: how much distance to keep? And the same frames with their masks, to segment.

    python -m examples.traffic.make

Whether cars are near is counted in CamVid's masks (non-commercial), whether it rains is heard in ESC-10 (CC BY 3.0); frames and
sounds are paired at random, since no public set that is at hand has both. Writes runs/traffic/data and, for the segmentation,
runs/tasks/camvid/data.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.packs import unpack, write_tables
from benchmarks.tasks.tables import table
from PIL import Image

COLUMNS = {
    "frame": "image",
    "sound": "audio",
    "distance": "category:target",
    "frame_id": "category:group",
    "clip_id": "category:group",
}
CAR = 8  # in CamVid's masks
CLEAR, NEAR = 0.01, 0.03  # shares of a frame that are car; frames between the two are left out
RAIN, DRY = "rain", ("dog", "crying_baby", "helicopter", "chainsaw")  # folders of ESC-10
FOLDS = {"train": "123", "valid": "4", "test": "5"}
SOUNDS = 2  # of either kind with every frame
DISTANCES = ("usual", "longer", "longest")  # by how many of two reasons there are


def make(folder: Path) -> Path:
    """The tables: frames by CamVid's splits, sounds by ESC-10's folds, the last to test on."""
    frames = unpack("camvid_240x180.zip", folder / "frames")
    sounds = unpack("esc10_16k_opus.zip", folder / "sounds")
    draw = random.Random(0)  # noqa: S311 - pairs, not secrets
    rows: dict[str, list[dict[str, Any]]] = {}
    for split, folds in FOLDS.items():
        heard = [file for file in sorted(sounds.rglob("*.opus")) if file.name[0] in folds]
        wet = [file for file in heard if file.parent.name == RAIN]
        dry = [file for file in heard if file.parent.name in DRY]
        rows[split] = []
        named = "val" if split == "valid" else split
        for frame in sorted((frames / named).glob("*.jpg")):
            cars = float((np.asarray(Image.open(frames / f"{named}annot" / f"{frame.stem}.png")) == CAR).mean())
            if CLEAR < cars < NEAR:
                continue
            for sound in (*draw.sample(wet, SOUNDS), *draw.sample(dry, SOUNDS)):
                reasons = (cars >= NEAR) + (sound in wet)
                row = {"frame": str(frame.relative_to(folder)), "sound": str(sound.relative_to(folder))}
                clip = "-".join(sound.stem.split("-")[:2])
                rows[split].append(
                    {**row, "distance": DISTANCES[reasons], "frame_id": frame.stem, "clip_id": f"clip {clip}"}
                )
    return write_tables(folder, COLUMNS, **rows)


if __name__ == "__main__":
    print(table("camvid"))
    print(make(Path("runs/traffic/data")))
