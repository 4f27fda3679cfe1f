from pathlib import Path

import numpy as np
import pytest
import soundfile

from triptych.data.check import check
from triptych.data.decode import audio_source, decode_audio
from triptych.data.layouts import read_layout
from triptych.data.splits import read_splits
from triptych.errors import InputError


def write(folder: Path, **lists: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in lists.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(content)
    return folder


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    """Two directories of two speakers each whose paths start two folders above them, as in the recipes."""
    (tmp_path / "wav").mkdir()
    for split, speakers in (("train", "ab"), ("test", "cd")):
        names = [f"{speaker}-{i}" for speaker in speakers for i in range(3)]
        for name in names:
            noise = np.random.default_rng(list(name.encode())).normal(0, 0.1, 8000)
            soundfile.write(tmp_path / f"wav/{name}.wav", noise, 8000)
        write(
            tmp_path / "data" / split,
            wav_scp="".join(f"{name} wav/{name}.wav\n" for name in names),
            text="".join(f"{name} ZERO {name.upper()}\n" for name in names),
            utt2spk="".join(f"{name} {name[0]}\n" for name in names),
        )
    return tmp_path / "data"


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_layout(path)
    return str(caught.value)


def test_utterances_of_several_directories_and_of_one(kaldi):
    splits = read_splits(kaldi)
    assert str(splits.schema) == "audio: audio:input\ntranscript: text:target\nspeaker: category:group"
    assert {split: len(table) for split, table in splits.tables.items()} == {"train": 6, "test": 6}
    assert splits.table("train").row(1) == {"audio": "../../wav/a-1.wav", "transcript": "ZERO A-1", "speaker": "a"}
    report = check(splits.tables, splits.schema)
    assert report.of("error") == ()
    assert [f.code for f in report.of("warning")] == ["unknown_characters"]
    assert sum(map(len, read_splits(kaldi / "train").tables.values())) == 6


def test_segments_are_excerpts_of_recordings(kaldi):
    write(kaldi / "train", text="u1 ONE\nu2 TWO\n", utt2spk="u1 a\nu2 a\n", segments="u1 a-0 0.25 0.5\nu2 a-0 0.5 -1\n")
    table = read_layout(kaldi)["train"]
    assert table.column("audio") == ["../../wav/a-0.wav#t=0.250000,0.500000", "../../wav/a-0.wav#t=0.500000"]
    whole, _ = soundfile.read(kaldi.parent / "wav/a-0.wav", dtype="float32")
    for cell, part in zip(table.column("audio"), (whole[2000:4000], whole[4000:]), strict=True):
        assert (decode_audio(audio_source(cell, table.root, "here"), 8000, "here") == part).all()


def test_lists_that_may_be_missing(kaldi):
    (kaldi / "test/text").unlink()
    (kaldi / "test/utt2spk").unlink()
    assert read_layout(kaldi / "test")[""].names == ["audio"]


def test_a_command_is_named_and_never_run(kaldi):
    mark = kaldi / "run"
    write(kaldi / "train", wav_scp=f"a-0 wav/a-0.wav\na-1 touch {mark}; sph2pipe -f wav a.sph |\n")
    assert refused(kaldi).startswith(f"{kaldi / 'train/wav.scp'}, line 2: a-1 is a command (touch {mark}"[:100])
    assert refused(kaldi).endswith("and commands in data are never run. Write the sounds as files, and list those.")
    assert not mark.exists()
    write(kaldi / "train", wav_scp="a-0 raw.1.ark:1234\n")
    assert refused(kaldi).endswith("line 1: a-0 is an archive, not a sound file. List WAV or FLAC files.")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text", "z-9 ZERO\n", "text, line 1: wav.scp does not list z-9. utils/fix_data_dir.sh drops the utterance."),
        ("text", "a-0 ZERO\na-0 ONE\n", "text, line 2: a-0 stands there twice. utils/fix_data_dir.sh sorts it out."),
        (
            "segments",
            "u1 a-0 0 1\n",
            "text, line 1: segments does not list the utterance a-0. utils/fix_data_dir.sh drops it.",
        ),
        (
            "segments",
            "a-0 a-0 0.5 0.2\n",
            "segments, line 1 is not an utterance, a recording, a start and a later end.",
        ),
        ("segments", "a-0 a-0 soon\n", "segments, line 1 is not an utterance, a recording, a start and a later end."),
        ("segments", "a-0 a-0 nan 1\n", "segments, line 1 is not an utterance, a recording, a start and a later end."),
    ],
)
def test_what_is_wrong_in_a_list_is_named(kaldi, name, content, message):
    write(kaldi / "train", **{name: content})
    assert refused(kaldi).startswith(f"{kaldi / 'train'}/{message}")


def test_a_sound_that_is_listed_and_absent_and_an_utterance_without_words(kaldi):
    (kaldi.parent / "wav/a-1.wav").unlink()
    write(kaldi / "test", text="c-0 ZERO\nc-1\nc-2 ...\n")
    splits = read_splits(kaldi)
    assert [(f.code, f.message.split(":")[0]) for f in check(splits.tables, splits.schema).of("error")] == [
        ("missing_file", "train, text line 2, column audio"),
        ("missing_label", "test, text line 2, column transcript"),
        ("no_words", "test, text line 3, column transcript"),
    ]


def test_directories_that_are_no_splits(kaldi):
    (kaldi / "train").rename(kaldi / "train_si284")
    (kaldi / "test").rename(kaldi / "test_dev93")
    assert refused(kaldi) == (
        f"{kaldi} holds test_dev93, train_si284, and none is called train or test. Give one of them."
    )
