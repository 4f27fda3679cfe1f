"""A recipe that is chosen: what the rules make of cells, and what becomes of time, memory and interruptions."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.errors import InputError
from triptych.recipe import DataSettings, read_recipe
from triptych.train import automatic
from triptych.train.automatic import Allowance, choose
from triptych.train.draft import SIZES, draft
from triptych.train.loop import quality
from triptych.train.run import train_data

SAID = ("the red cat sat", "a dog ran home", "the cat ran", "a red dog sat home")


def table_of(folder: Path, columns: dict[str, list[object]], kinds: str) -> Path:
    """train.csv, valid.csv and test.csv of the same cells."""
    folder.mkdir(exist_ok=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    for split in ("train", "valid", "test"):
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    (folder / "schema.yaml").write_text(kinds)
    return folder


def drafted(folder: Path, size="medium"):
    return draft(DataSettings(path=str(folder)), read_splits(folder), size).recipe


def test_pictures_of_several_shapes_are_squashed_and_grey_ones_read_grey(tmp_path):
    for place, sides in enumerate([(40, 80), (80, 40), (60, 60)]):
        Image.fromarray(np.full((*sides, 3), 90 * place, dtype=np.uint8)).save(tmp_path / f"{place}.png")
    folder = table_of(
        tmp_path, {"photo": ["0.png", "1.png", "2.png"], "y": [0, 1, 0]}, "photo: image\ny: category:target\n"
    )
    features = drafted(folder).model.inputs["photo"].features
    assert (features["resize"], features["grey"], features["size"]) == ("squash", True, [60, 60])


def test_pictures_are_never_enlarged_and_grow_with_the_size_of_the_model(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    folder = table_of(tmp_path, {"photo": ["a.png"] * 4, "y": [0, 1, 0, 1]}, "photo: image\ny: category:target\n")
    sizes = [drafted(folder, size).model.inputs["photo"].features["size"] for size in SIZES]
    assert sizes == [[24, 48], [32, 64], [48, 96]]
    widths = [drafted(folder, size).model.inputs["photo"].encoder["widths"][0] for size in SIZES]
    assert widths == sorted(set(widths))


@pytest.mark.parametrize(
    ("seen", "unseen", "level"),
    [(["cat", "dog"], ["cat"], "character"), (SAID, SAID, "word"), (SAID, ["quite other words here"], "subword")],
)
def test_texts_are_cut_by_what_training_rows_have_seen(tmp_path, seen, unseen, level):
    folder = table_of(
        tmp_path, {"said": list(seen), "y": [i % 2 for i in range(len(seen))]}, "said: text\ny: category:target\n"
    )
    (folder / "valid.csv").write_text("said,y\n" + "".join(f"{text},0\n" for text in unseen))
    assert drafted(folder).model.inputs["said"].features["level"] == level


def test_a_sound_that_a_text_follows_is_read_frame_by_frame_and_transcribed(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000, np.float32) + 0.1, 8_000)
    folder = table_of(tmp_path, {"voice": ["a.wav"] * 4, "said": list(SAID)}, "voice: audio\nsaid: text:target\n")
    recipe = drafted(folder)
    assert recipe.model.task["name"] == "transcribe"
    assert recipe.model.inputs["voice"].encoder["name"] == "rnn"


def test_what_is_chosen_learns_and_its_account_names_every_column(tiny_data):
    splits = read_splits(tiny_data)
    chosen = choose(DataSettings(path=str(tiny_data)), splits, Allowance.of(0.6))
    told = [reason.what for reason in chosen.reasons]
    assert told[:4] == ["picture", "sound", "word", "match"]
    assert told[-1] == "steps"
    assert chosen.recipe.train.steps > 1
    assert chosen.recipe.train.cache_bytes > 0


def test_variations_are_told_apart_by_validation_rows(tiny_data, monkeypatch):
    monkeypatch.setattr(automatic, "FAIR", 1)
    chosen = choose(DataSettings(path=str(tiny_data)), read_splits(tiny_data), Allowance.of(0.5))
    variation = next(reason for reason in chosen.reasons if reason.what == "variation")
    assert variation.choice in variation.why
    assert all(name in variation.why for name in ("as drafted", "no augmentation", "concatenation"))


def test_memory_that_holds_no_model_is_refused_with_both_amounts(tiny_data):
    with pytest.raises(InputError, match=r"holds .* [MG]B, and 1\.00 MB are allowed"):
        choose(DataSettings(path=str(tiny_data)), read_splits(tiny_data), Allowance.of(1, 1_000_000))


def test_memory_that_holds_no_rows_leaves_them_on_disk(tiny_data):
    candidate = automatic._measured(draft(DataSettings(), read_splits(tiny_data), "small"), read_splits(tiny_data))
    assert candidate.cache(candidate.memory) == 0
    assert candidate.cache(candidate.memory + 2**40) == candidate.cells
    assert candidate.cells > 0
    assert candidate.steps(20, candidate.memory) <= candidate.steps(20, candidate.memory + candidate.cells)


def test_no_minutes_are_refused():
    with pytest.raises(InputError, match="0 minutes leave no time"):
        Allowance.of(0)


def test_the_recipe_is_kept_and_the_same_call_uses_it(tiny_data, tmp_path):
    data, out = DataSettings(path=str(tiny_data)), tmp_path / "model"
    first = train_data(data, out, minutes=0.4)
    kept = tmp_path / "model.recipe.yaml"
    recipe = read_recipe(kept)
    again = train_data(data, out, minutes=0.4)
    assert again.loaded.sha256 == first.loaded.sha256
    with pytest.raises(InputError, match="was chosen for other data, minutes or memory"):
        train_data(data, out, minutes=0.5)
    loaded = first.loaded
    rows = Samples(first.splits.table("test"), loaded.processor, first.splits.schema)
    assert 0.0 <= quality(loaded.model, rows) <= 1.0
    assert recipe.train.steps >= 1
