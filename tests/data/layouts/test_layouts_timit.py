from pathlib import Path

import numpy as np
import pytest
import soundfile

from triptych.data.check import check
from triptych.data.layouts import read_layout
from triptych.data.splits import read_splits
from triptych.errors import InputError


def utter(folder: Path, sentence: str, words: str) -> None:
    """A sound in SPHERE form, with the three files of its marks."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(list(words.encode())).normal(0, 0.1, 1600)
    soundfile.write(folder / f"{sentence}.WAV", samples, 16000, format="NIST", subtype="PCM_16")
    (folder / f"{sentence}.TXT").write_text(f"0 1600 {words}.\n")
    marks = [f"{i * 100} {i * 100 + 100} {word}\n" for i, word in enumerate(words.lower().split())]
    (folder / f"{sentence}.WRD").write_text("".join(marks))
    (folder / f"{sentence}.PHN").write_text("0 50 h#\n50 120 sh\n120 1600 h#\n")


@pytest.fixture
def timit(tmp_path: Path) -> Path:
    """Three speakers to train on and one to test on, two sentences each."""
    for split, speakers in (("TRAIN", ("DR1/FCJF0", "DR1/MDAC0", "DR8/MTCS0")), ("TEST", ("DR2/FPAS0",))):
        for speaker in speakers:
            utter(tmp_path / "TIMIT" / split / speaker, "SA1", f"She had your suit {speaker[4:]}")
            utter(tmp_path / "TIMIT" / split / speaker, "SX37", f"Critical equipment needs {speaker[4:]}")
    return tmp_path


def test_utterances_by_split_with_speakers_as_groups(timit):
    splits = read_splits(timit)
    assert str(splits.schema) == (
        "audio: audio:input\ntranscript: text:target\nspeaker: category:group\nphones: text:ignore"
    )
    assert {split: len(table) for split, table in splits.tables.items()} == {"train": 6, "test": 2}
    assert splits.table("train").row(1) == {
        "audio": "TRAIN/DR1/FCJF0/SX37.WAV",
        "transcript": "Critical equipment needs FCJF0.",
        "speaker": "FCJF0",
        "phones": "h# sh h#",
    }
    assert check(splits.tables, splits.schema).of("error") == ()


def test_small_letters_converted_sounds_and_words_in_place_of_a_sentence(timit):
    root = timit / "TIMIT"
    for folder in sorted(root.rglob("*"), reverse=True):
        folder.rename(folder.with_name(folder.name.lower()))
    here = root / "test/dr2/fpas0"
    soundfile.write(here / "sa1.wav.wav", np.zeros(1600), 16000)
    (here / "sa1.txt").unlink()
    row = read_layout(root)["test"].row(0)
    assert (row["audio"], row["speaker"]) == ("test/dr2/fpas0/sa1.wav.wav", "FPAS0")
    assert row["transcript"] == "she had your suit fpas0"


def test_sentences_without_sound_or_words_name_their_rows(timit):
    (timit / "TIMIT/TRAIN/DR1/MDAC0/SA1.WAV").unlink()
    for suffix in ("TXT", "WRD"):
        (timit / f"TIMIT/TRAIN/DR8/MTCS0/SX37.{suffix}").unlink()
    splits = read_splits(timit)
    assert [(f.code, f.message.split(":")[0]) for f in check(splits.tables, splits.schema).of("error")] == [
        ("missing_file", "TRAIN, row 3, column audio"),
        ("missing_label", "TRAIN, row 6, column transcript"),
    ]


@pytest.mark.parametrize("line", ["She had", "0 She had", "200 100 She had", "0 100"])
def test_a_line_without_samples_is_named(timit, line):
    file = timit / "TIMIT/TEST/DR2/FPAS0/SA1.TXT"
    file.write_text(f"{line}\n")
    with pytest.raises(InputError) as caught:
        read_layout(timit)
    assert str(caught.value) == f"{file}, line 1 is not a first sample, a last one and a text. Mend the line."
