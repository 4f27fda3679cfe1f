import csv
import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "odd_one_out"
SMALL = {"train": 400, "valid": 40, "test": 80}


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("odd_one_out_make", EXAMPLE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd_one_out")
    example.make(folder, rows=SMALL, leave_out_speaker="theo")
    return folder


def rows(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digit_of_photo(row: dict[str, str]) -> int:
    return int(row["photo"].split("_")[1])


def digit_of_voice(row: dict[str, str]) -> int:
    return int(Path(row["voice"]).stem.split("_")[0])


def digit_of_word(row: dict[str, str]) -> int:
    with (EXAMPLE / "words.csv").open(encoding="utf-8", newline="") as file:
        return {entry["word"]: int(entry["digit"]) for entry in csv.DictReader(file)}[row["word"]]


def test_the_packs_stay_small_and_whole():
    sizes = [(EXAMPLE / name).stat().st_size for name in ("photos.zip", "voices.zip")]
    assert max(sizes) < 5_000_000
    assert sum(sizes) < 7_500_000


def test_every_word_means_one_digit():
    with (EXAMPLE / "words.csv").open(encoding="utf-8", newline="") as file:
        entries = list(csv.DictReader(file))
    meanings: dict[str, set[str]] = {}
    for entry in entries:
        meanings.setdefault(entry["word"].casefold(), set()).add(entry["digit"])
    assert all(len(digits) == 1 for digits in meanings.values())
    assert len({entry["language"] for entry in entries} - {"numeral"}) >= 10
    assert len({entry["script"] for entry in entries}) >= 10


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(example, made, tmp_path):
    example.make(tmp_path, rows=SMALL, leave_out_speaker="theo")
    for split in (*SMALL, "left_out"):
        assert (tmp_path / f"{split}.csv").read_bytes() == (made / f"{split}.csv").read_bytes()
    example.make(tmp_path, rows=SMALL, seed=1)
    assert (tmp_path / "train.csv").read_bytes() != (made / "train.csv").read_bytes()


def test_the_label_says_which_panel_disagrees(made):
    for split in SMALL:
        for row in rows(made, split):
            photo, voice, word = digit_of_photo(row), digit_of_voice(row), digit_of_word(row)
            expected = {
                "none": photo == voice == word,
                "photo": voice == word != photo,
                "voice": photo == word != voice,
                "word": photo == voice != word,
            }
            assert expected[row["odd"]]


def test_classes_are_balanced_and_files_exist(made):
    for split, count in SMALL.items():
        found = rows(made, split)
        assert Counter(row["odd"] for row in found) == dict.fromkeys(("none", "photo", "voice", "word"), count // 4)
        assert all((made / row["photo"]).is_file() and (made / row["voice"]).is_file() for row in found)
        assert len({(row["photo"], row["voice"], row["word"]) for row in found}) == count


def test_no_signer_and_no_clip_stands_in_two_splits(example, made):
    photos, voices = example.read_photos(made), example.read_voices(made)
    signers = {split: {photo.signer for photo in photos[split]} for split in SMALL}
    clips = {split: {voice.file for voice in voices[split]} for split in SMALL}
    for groups in (signers, clips):
        assert len(set.union(*groups.values())) == sum(len(group) for group in groups.values())
    assert sum(len(found) for found in photos.values()) == 2062
    assert {split: len(found) for split, found in voices.items()} == {"train": 2400, "valid": 300, "test": 300}
    assert all(voice.take < 5 for voice in voices["test"])
    shares = [len(photos[split]) / 2062 for split in ("train", "valid", "test")]
    assert shares == pytest.approx([0.75, 0.10, 0.15], abs=0.01)


def test_the_left_out_speaker_is_heard_in_left_out_alone(made):
    assert {row["speaker"] for row in rows(made, "left_out")} == {"theo"}
    for split in ("train", "valid"):
        assert "theo" not in {row["speaker"] for row in rows(made, split)}
    trained = {row["photo_id"] for row in rows(made, "train")}
    assert not trained & {row["photo_id"] for row in rows(made, "left_out")}
    assert len(rows(made, "left_out")) == SMALL["test"]


def test_an_unknown_speaker_or_split_is_refused(example, tmp_path):
    with pytest.raises(ValueError, match=r"There is no speaker called 'nobody'\. Speakers are george, jackson, lucas"):
        example.make(tmp_path, rows=SMALL, leave_out_speaker="nobody")
    with pytest.raises(ValueError, match=r"There is no split called 'tets'\. Splits are train, valid and test\."):
        example.make(tmp_path, rows={"tets": 3})
