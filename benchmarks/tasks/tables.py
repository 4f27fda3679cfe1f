"""Tables of real tasks, made from public packs: a folder with train.csv, valid.csv, test.csv and schema.yaml for each.

    python -m benchmarks.tasks.tables [NAME ...]

Test rows are those of the pack's own split where it has one. Validation rows are drawn from the training rows by whole photo,
clip or speaker, and the test rows share none of these with either.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.packs import inside, pack, unpack, write_tables
from benchmarks.tasks.dense import bccd, camvid
from benchmarks.tasks.handwriting import moving, order
from benchmarks.tasks.made import drawing, heard, seen, speech, speech_one_voice
from benchmarks.tasks.pairs import classic, emoji, retrieval
from benchmarks.tasks.splits import Rows, apart, voices_of
from benchmarks.tasks.texts import an4, captions, spoken, translation

WORK = Path("runs/tasks")
EMOTIONS = {"W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "T": "sadness", "N": "neutral"}
Pair = tuple[str, str]  # speakers
ROWS = {"train": 20_000, "valid": 1_000, "test": 4_000}


def easy_vqa(folder: Path) -> Path:
    """Questions about one coloured shape, one of 13 answers (easy-VQA, MIT)."""
    unpack("easyvqa.zip", folder / "media")

    def rows(split: str) -> Rows:
        asked = json.loads(inside(folder / "media", f"{split}/questions.json.gz"))
        return [
            {"picture": f"media/{split}/{image}.png", "question": q, "answer": a, "picture_id": f"{split} {image}"}
            for q, a, image in asked
        ]

    train, valid = apart(rows("train"), "picture_id")
    schema = {"picture": "image", "question": "text", "answer": "category:target", "picture_id": "category:group"}
    return write_tables(folder, schema, train=train, valid=valid, test=rows("test"))


def nlvr(folder: Path) -> Path:
    """A sentence about three boxes of shapes, true or false (NLVR, CC BY 4.0): dev and test to train on, hidden to test on."""
    unpack("nlvr_devtest.zip", folder / "media")

    def rows(split: str) -> Rows:
        told = [json.loads(line) for line in inside(folder / "media", f"{split}.json.gz").splitlines()]
        return [
            {
                "picture": f"media/{split}/{split}-{one['identifier']}-{permutation}.png",
                "sentence": one["sentence"],
                "holds": one["label"],
                "sentence_id": one["identifier"].split("-")[0],
            }
            for one in told
            for permutation in (0, 1)
        ]

    train, valid = apart(rows("dev") + rows("test"), "sentence_id")
    schema = {"picture": "image", "sentence": "text", "holds": "category:target", "sentence_id": "category:group"}
    return write_tables(folder, schema, train=train, valid=valid, test=rows("hidden"))


def matching(folder: Path) -> Path:
    """Does the sentence belong to the photo? (Flickr8k pairs; research use only.)"""
    unpack("flickr8k_144webp.zip", folder / "media")

    def rows(split: str) -> Iterator[dict[str, Any]]:
        for line in inside(folder / "media", f"itm_{split}.tsv.gz").splitlines():
            image, sentence, verdict = line.split("\t")
            photo = image.removesuffix(".jpg")
            yield {"photo": f"media/{photo}.webp", "sentence": sentence, "verdict": verdict, "photo_id": photo}

    schema = {"photo": "image", "sentence": "text", "verdict": "category:target", "photo_id": "category:group"}
    return write_tables(folder, schema, train=rows("train"), valid=rows("dev"), test=rows("test"))


def emotion(folder: Path, test: Pair = ("03", "13"), valid: Pair = ("08", "10")) -> Path:
    """Seven acted emotions in German sentences, by speakers that training never heard, a man and a woman (EmoDB; research use)."""
    media = unpack("emodb_16k_opus.zip", folder / "media")
    rows: dict[str, Rows] = {"train": [], "valid": [], "test": []}
    for file in sorted(media.rglob("*.opus")):
        speaker = file.stem[:2]
        split = "test" if speaker in test else "valid" if speaker in valid else "train"
        rows[split].append(
            {"voice": str(file.relative_to(folder)), "emotion": EMOTIONS[file.stem[5]], "speaker": f"speaker {speaker}"}
        )
    return write_tables(folder, {"voice": "audio", "emotion": "category:target", "speaker": "category:group"}, **rows)


def sounds(folder: Path, fold: int = 5) -> Path:
    """Ten kinds of environmental sound (ESC-10, CC BY 3.0); one fold to test on, the one before it to validate on."""
    media = unpack("esc10_16k_opus.zip", folder / "media")
    named = {fold: "test", fold - 1 or 5: "valid"}
    rows: dict[str, Rows] = {"train": [], "valid": [], "test": []}
    for file in sorted(media.rglob("*.opus")):
        number, clip = file.stem.split("-")[:2]
        rows[named.get(int(number), "train")].append(
            {"sound": str(file.relative_to(folder)), "kind": file.parent.name, "clip_id": f"clip {clip}"}
        )
    return write_tables(folder, {"sound": "audio", "kind": "category:target", "clip_id": "category:group"}, **rows)


def digits(folder: Path) -> Path:
    """A handwritten and a spoken digit that agree (MNIST and FSDD, CC BY-SA), paired by label as AV-MNIST is."""
    unpack("fsdd_flac.zip", folder / "media")
    with np.load(pack("mnist_20k.npz")) as mnist:
        images = {split: (mnist[f"{split}_x"], mnist[f"{split}_y"]) for split in ("train", "test")}
    draw = random.Random(0)  # noqa: S311 - pairs, not secrets
    cut = len(images["train"][0]) - ROWS["valid"]
    test = draw.sample(range(len(images["test"][0])), ROWS["test"])  # the pack has them sorted by digit
    places = {"train": range(cut), "valid": range(cut, cut + ROWS["valid"]), "test": test}
    archive = folder / "pictures"
    archive.mkdir(exist_ok=True)
    voices = voices_of(folder / "media")
    rows: dict[str, Rows] = {}
    for split, chosen in places.items():
        pixels, labels = images["test" if split == "test" else "train"]
        rows[split] = []
        for place in chosen:
            name = f"pictures/{split}-{place}.png"
            if not (folder / name).exists():
                Image.fromarray(pixels[place]).save(folder / name)
            digit = int(labels[place])
            voice = draw.choice(voices[split, digit])
            rows[split].append({"picture": name, "voice": voice, "digit": digit, "clip_id": Path(voice).stem})
    schema = {"picture": "image", "voice": "audio", "digit": "category:target", "clip_id": "category:group"}
    return write_tables(folder, schema, **rows)


def signs(folder: Path) -> Path:
    """A hand that signs a digit and a voice that says it: photos by signer, voices by take, as in the odd one out."""
    unpack("fsdd_flac.zip", folder / "media")
    unpack("signdigits_64.zip", folder / "photos")
    voices, draw = voices_of(folder / "media"), random.Random(0)  # noqa: S311 - pairs, not secrets
    photos = sorted((folder / "photos").rglob("*.jpg"))
    order = {photo: place for place, photo in enumerate(random.Random(0).sample(photos, len(photos)))}  # noqa: S311
    rows: dict[str, Rows] = {"train": [], "valid": [], "test": []}
    for photo in photos:
        share = order[photo] / len(photos)
        split = "train" if share < 0.75 else "valid" if share < 0.85 else "test"
        digit = int(photo.parent.name)
        for voice in draw.sample(voices[split, digit], 8):
            rows[split].append(
                {
                    "photo": str(photo.relative_to(folder)),
                    "voice": voice,
                    "digit": digit,
                    "photo_id": photo.stem,
                    "clip_id": Path(voice).stem,
                }
            )
    schema = {
        "photo": "image",
        "voice": "audio",
        "digit": "category:target",
        "photo_id": "category:group",
        "clip_id": "category:group",
    }
    return write_tables(folder, schema, **rows)


TASKS: dict[str, Callable[[Path], Path]] = {
    f.__name__: f
    for f in (
        *(easy_vqa, nlvr, matching, emotion, sounds, digits, signs, moving, order),
        *(captions, translation, an4, spoken, retrieval, emoji, classic),
        *(speech, speech_one_voice, heard, drawing, seen),
        *(camvid, bccd),
    )
}


def table(name: str) -> Path:
    """The folder of a task's tables, made once."""
    folder = WORK / name / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return folder if (folder / "schema.yaml").exists() else TASKS[name](folder)


if __name__ == "__main__":
    for name in sys.argv[1:] or TASKS:
        print(table(name))
