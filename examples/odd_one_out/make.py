"""Odd one out: a photo of a signed digit, a spoken digit and a number word. Which one disagrees with the other two?

    python make.py FOLDER [--seed 0] [--train 24000] [--valid 2000] [--test 4000] [--leave-out-speaker NAME]

unpacks the photos and voices into FOLDER and writes train.csv, valid.csv, test.csv and schema.yaml. In a quarter of the
rows all three agree (`none`); in the others the photo, the voice or the word is the odd one, its digit uniform over the
other nine. A model that reads one of the three can be right in 25 % of the rows, one that reads two in 50 %.

Nothing is shared between splits but the list of words and the six speakers:

- photos are split by signer, 75 / 10 / 15 % of the 207 signers;
- voices are split by take: 0-4 are the official test set, 5-9 are for validation, the other 40 for training.

These splits are fixed; the seed changes only how rows are drawn. The same seed gives the same bytes.
"""

import argparse
import csv
import random
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

HERE = Path(__file__).parent
ROWS = {"train": 24_000, "valid": 2_000, "test": 4_000}
LABELS = ("none", "photo", "voice", "word")
COLUMNS = ("photo", "voice", "word", "odd", "photo_id", "voice_id", "speaker")
SCHEMA = """\
# column: kind, or kind:role. Groups name what rows share: the signer, the clip, the speaker.
photo: image
voice: audio
word: text
odd: category:target
photo_id: category:group
voice_id: category:group
speaker: category:group
"""


class Photo(NamedTuple):
    """A photo in photos.zip, named `<signer>_<digit>_<camera number>.webp`."""

    signer: str
    digit: int
    file: str


class Voice(NamedTuple):
    """A clip in voices.zip, named `<digit>_<speaker>_<take>.opus`."""

    digit: int
    speaker: str
    take: int
    file: str


def make(
    folder: Path,
    *,
    rows: Mapping[str, int] | None = None,
    seed: int = 0,
    leave_out_speaker: str | None = None,
) -> dict[str, Path]:
    """Unpack the media into `folder` and write one CSV a split, and schema.yaml.

    Args:
        folder: made if it does not exist.
        rows: how many rows each of train, valid and test gets; a split that is not named gets its usual number.
        seed: how the rows are drawn.
        leave_out_speaker: train and valid do without this speaker, and left_out.csv pairs the test photos with this
            speaker's clips alone, as many rows as test.csv has.

    Returns:
        The path of each split's table.

    Raises:
        ValueError: there is no such split or speaker.
    """
    sizes = {**ROWS, **(rows or {})}
    if unknown := sorted(set(sizes) - set(ROWS)):
        raise ValueError(f"There is no split called {unknown[0]!r}. Splits are train, valid and test.")
    folder.mkdir(parents=True, exist_ok=True)
    photos, voices, words = read_photos(folder), read_voices(folder), read_words()
    if leave_out_speaker is not None:
        speakers = sorted({voice.speaker for clips in voices.values() for voice in clips})
        if leave_out_speaker not in speakers:
            raise ValueError(f"There is no speaker called {leave_out_speaker!r}. Speakers are {', '.join(speakers)}.")
        voices["left_out"] = [v for clips in voices.values() for v in clips if v.speaker == leave_out_speaker]
        photos["left_out"], sizes["left_out"] = photos["test"], sizes["test"]
        for split in ("train", "valid"):
            voices[split] = [voice for voice in voices[split] if voice.speaker != leave_out_speaker]
    (folder / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    written = {}
    for split, count in sizes.items():
        written[split] = folder / f"{split}.csv"
        with written[split].open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            table.writerows(draw(photos[split], voices[split], words, count, generator(f"{seed}:{split}")))
    return written


def read_photos(folder: Path) -> dict[str, list[Photo]]:
    """The photos of each split, unpacked into `folder/photos`; signers are dealt to splits in a fixed random order."""
    by_signer = defaultdict(list)
    for name in unpack("photos.zip", folder / "photos"):
        signer, digit, _ = name.split("_")
        by_signer[signer].append(Photo(f"signer-{signer}", int(digit), f"photos/{name}"))
    signers = shuffled(sorted(by_signer), generator("signers"))
    tested, validated = round(0.15 * len(signers)), round(0.10 * len(signers))
    parts = {
        "test": signers[:tested],
        "valid": signers[tested : tested + validated],
        "train": signers[tested + validated :],
    }
    return {split: [photo for signer in sorted(part) for photo in by_signer[signer]] for split, part in parts.items()}


def read_voices(folder: Path) -> dict[str, list[Voice]]:
    """The clips of each split, unpacked into `folder/voices`. Takes 0-4 are the data set's official test set."""
    voices: dict[str, list[Voice]] = {"train": [], "valid": [], "test": []}
    for name in unpack("voices.zip", folder / "voices"):
        digit, speaker, take = name.removesuffix(".opus").split("_")
        voice = Voice(int(digit), speaker, int(take), f"voices/{name}")
        voices["test" if voice.take < 5 else "valid" if voice.take < 10 else "train"].append(voice)
    return voices


def read_words() -> dict[int, list[str]]:
    """The number words of each digit, in every language and script of words.csv."""
    words = defaultdict(list)
    with (HERE / "words.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            words[int(row["digit"])].append(row["word"])
    return dict(words)


def unpack(archive: str, folder: Path) -> list[str]:
    """Unpack an archive that lies beside this file and return the names in it, sorted."""
    with zipfile.ZipFile(HERE / archive) as packed:
        packed.extractall(folder)
        return sorted(packed.namelist())


def draw(
    photos: list[Photo], voices: list[Voice], words: Mapping[int, list[str]], count: int, rng: random.Random
) -> Iterator[tuple[str, ...]]:
    """Rows in the order of `COLUMNS`, no two with the same photo, clip and word, classes equally often.

    Only `rng.random()` is used: of Python's random functions it alone is promised to give the same numbers forever.
    """
    photos_of, voices_of = defaultdict(list), defaultdict(list)
    for photo in photos:
        photos_of[photo.digit].append(photo)
    for voice in voices:
        voices_of[voice.digit].append(voice)
    seen = set()
    for label in shuffled([LABELS[i % 4] for i in range(count)], rng):
        while True:
            digit = int(10 * rng.random())
            other = (digit + 1 + int(9 * rng.random())) % 10
            photo = pick(photos_of[other if label == "photo" else digit], rng)
            voice = pick(voices_of[other if label == "voice" else digit], rng)
            word = pick(words[other if label == "word" else digit], rng)
            if (photo, voice, word) not in seen:
                break
        seen.add((photo, voice, word))
        clip = f"{voice.digit}_{voice.speaker}_{voice.take}"
        yield photo.file, voice.file, word, label, photo.signer, clip, voice.speaker


def generator(name: str) -> random.Random:
    """A random generator that depends on the name alone."""
    return random.Random(name)  # noqa: S311 - rows are drawn, no secrets are made


def pick(items: list[T], rng: random.Random) -> T:
    """One of the items."""
    return items[int(len(items) * rng.random())]


def shuffled(items: list[str], rng: random.Random) -> list[str]:
    """The items in random order."""
    return sorted(items, key=lambda _: rng.random())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave-out-speaker", metavar="NAME")
    for split, size in ROWS.items():
        parser.add_argument(f"--{split}", type=int, default=size, metavar="ROWS")
    args = parser.parse_args()
    make(
        args.folder,
        rows={split: getattr(args, split) for split in ROWS},
        seed=args.seed,
        leave_out_speaker=args.leave_out_speaker,
    )
