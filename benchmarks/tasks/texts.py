"""Tables whose target is a text: captions, translations, transcripts, made from the packs and from num2words."""

import csv
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.packs import inside, pack, unpack, write_tables
from benchmarks.tasks.splits import Rows, held_back, voices_of

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "tr": "Turkish"}
NUMBERS, UNSEEN = 10_000, 1_000  # numbers below the first are said; so many of them are seen in one split alone
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPOKEN = {"train": 4_000, "valid": 300, "test": 500}
RATE = 8_000


def captions(folder: Path) -> Path:
    """Five sentences about each photo (Flickr8k; research use only); the official dev photos are part of the test split."""
    media = unpack("flickr8k_144webp.zip", folder / "media")
    told: dict[str, list[str]] = {}
    for image, caption in csv.reader(inside(media, "captions.txt.gz").splitlines()[1:]):
        told.setdefault(image.removesuffix(".jpg"), []).append(caption.strip())

    def rows(split: str) -> Rows:
        photos = [line.strip().removesuffix(".jpg") for line in inside(media, f"split_{split}.txt.gz").splitlines()]
        return [
            {"photo": f"media/{photo}.webp", "caption": "\n".join(told[photo]), "photo_id": photo} for photo in photos
        ]

    train = rows("train")
    back = held_back([row["photo_id"] for row in train])
    return write_tables(
        folder,
        {"photo": "image", "caption": "text:target", "photo_id": "category:group"},
        train=[row for row in train if row["photo_id"] not in back],
        valid=[row for row in train if row["photo_id"] in back],
        test=rows("test"),
    )


def translation(folder: Path) -> Path:
    """A number in words of one language, to be said in another; validation and test numbers are never seen in training."""
    from num2words import num2words

    draw = random.Random(0)  # noqa: S311 - numbers to say, not secrets
    numbers = draw.sample(range(NUMBERS), NUMBERS)
    split_of = {"test": numbers[:UNSEEN], "valid": numbers[UNSEEN : 2 * UNSEEN], "train": numbers[2 * UNSEEN :]}

    def rows(split: str) -> Iterator[dict[str, Any]]:
        for number in split_of[split]:
            pairs = [(a, b) for a in LANGUAGES for b in LANGUAGES if a != b]
            for source, into in draw.sample(pairs, 4 if split == "train" else 2):
                said = {code: num2words(number, lang=code) for code in (source, into)}
                yield {
                    "words": said[source],
                    "into": LANGUAGES[into],
                    "translation": said[into],
                    "number_id": number,
                }

    schema = {"words": "text", "into": "category", "translation": "text:target", "number_id": "category:group"}
    return write_tables(folder, schema, train=rows("train"), valid=rows("valid"), test=rows("test"))


def an4(folder: Path) -> Path:
    """Names, numbers and dates, spelled and said by 84 people, as 13 MFCC, 100 frames a second (CMU AN4, BSD)."""
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    rows: dict[str, Rows] = {"train": [], "test": []}
    with np.load(pack("an4_mfcc13.npz")) as held:
        for split, found in rows.items():
            ends = np.cumsum(held[f"{split}_len"])
            for number, (frames, text, name) in enumerate(
                zip(np.split(held[f"{split}_feat"], ends[:-1]), held[f"{split}_text"], held[f"{split}_id"], strict=True)
            ):
                file = f"clips/{split}-{number}.npy"
                np.save(folder / file, frames)
                found.append({"mfcc": file, "transcript": str(text), "speaker": str(name).split("/")[1]})
    back = held_back([row["speaker"] for row in rows["train"]])
    return write_tables(
        folder,
        {"mfcc": "series", "transcript": "text:target", "speaker": "category:group"},
        train=[row for row in rows["train"] if row["speaker"] not in back],
        valid=[row for row in rows["train"] if row["speaker"] in back],
        test=rows["test"],
    )


def spoken(folder: Path) -> Path:
    """Three to five spoken digits in a row by one speaker, strung together from clips of the split's own takes (FSDD, CC BY-SA)."""
    unpack("fsdd_flac.zip", folder / "media")
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    voices, draw = voices_of(folder / "media"), random.Random(0)  # noqa: S311 - strings of digits, not secrets
    rows: dict[str, Rows] = {}
    for split, count in SPOKEN.items():
        rows[split] = []
        for number in range(count):
            speaker = draw.choice(sorted({Path(v).stem.split("_")[1] for v in voices[split, 0]}))
            digits = [draw.randrange(10) for _ in range(draw.randint(3, 5))]
            parts = []
            for digit in digits:
                takes = [v for v in voices[split, digit] if Path(v).stem.split("_")[1] == speaker]
                parts += [soundfile.read(folder / draw.choice(takes))[0], np.zeros(draw.randint(0, RATE // 5))]
            file = f"clips/{split}-{number}.flac"
            soundfile.write(folder / file, np.concatenate(parts), RATE)
            transcript = " ".join(DIGITS[digit] for digit in digits)
            rows[split].append({"voice": file, "transcript": transcript, "speaker": speaker})
    return write_tables(folder, {"voice": "audio", "transcript": "text:target", "speaker": "category"}, **rows)
