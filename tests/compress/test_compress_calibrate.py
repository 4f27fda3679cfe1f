import csv
import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
import transformers as hf
from benchmarks.tasks.clips import encoded
from PIL import Image
from safetensors.torch import save_file

import tiny_folders
from triptych import console
from triptych.compress.calibrate import calibration, token_modality
from triptych.compress.coverage import Coverage, coverage, show
from triptych.compress.inputs import draw
from triptych.compress.inputs.expected import MisfitError
from triptych.compress.inputs.rows import Rows, read_rows
from triptych.demo import make_data
from triptych.errors import InputError
from triptych.models.store import read_model

ROWS = 24
HEADER = ["photo", "voice", "question", "answer"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Makes each kind of model folder once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            tiny_folders.FOLDERS[name](made[name])
        return made[name]

    return get


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> Path:
    """Pictures (grey, transparent and coloured), sounds (two rates, mono and stereo) and a table of them."""
    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(ROWS):
        mode = ("RGB", "L", "RGBA")[i % 3]
        pixels = rng.integers(0, 256, (20 + i, 30, len(mode)), dtype=np.uint8).squeeze()
        Image.fromarray(pixels, mode).save(root / f"{i}.png")
        channels = 1 + i % 2
        soundfile.write(root / f"{i}.wav", rng.normal(0, 0.1, (8000, channels)), 8000 if i % 2 else 16000)
        words = f"what colour is this {'cat ' * (i % 5)}w{i}"
        rows.append([f"{i}.png", f"{i}.wav", words, "red" if i % 2 else "blue"])
    write(root / "all.csv", rows)
    return root


def write(path: Path, rows: list[list[str]], header: list[str] = HEADER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def in_memory(media: Path) -> list[dict[str, str]]:
    """The whole table as mappings: a file is split, and only its training rows are used."""
    rows = [dict(zip(HEADER, row, strict=True)) for row in read(media / "all.csv")]
    return [row | {"photo": str(media / row["photo"]), "voice": str(media / row["voice"])} for row in rows]


def words(folder: Path, ids: torch.Tensor) -> str:
    return hf.AutoTokenizer.from_pretrained(folder).decode(ids.flatten())


# ---------------------------------------------------------------------------------- each kind of processor


@pytest.mark.parametrize(
    ("name", "media_inputs", "codes"),
    [
        ("clip", {"pixel_values": "image"}, {"text"}),
        ("siglip2", {"pixel_values": "image"}, {"text"}),
        ("llava", {"pixel_values": "image"}, {"text", "image"}),
        ("qwen2_vl", {"pixel_values": "image"}, {"text", "image"}),
        ("whisper", {"input_features": "audio"}, {"text"}),
        ("qwen2_audio", {"input_features": "audio"}, {"text", "audio"}),
        ("vit", {"pixel_values": "image"}, set()),
        ("llama", {}, {"text"}),
    ],
)
def test_the_model_runs_on_what_its_own_processor_makes_of_one_table(name, media_inputs, codes, folder, media):
    found = calibration(folder(name), media / "all.csv", rows=3)
    model = tiny_folders.model_of(folder(name))
    assert len(found.batches) == len(found.rows) == 3
    assert found.skipped == ()
    for batch in found.batches:
        with torch.no_grad():
            model(**batch.inputs)
        assert {k: m for k, m in batch.modality.items() if m != "text"} == media_inputs
        seen = set() if batch.tokens is None else {batch.names[code] for code in batch.tokens.unique().tolist()}
        assert seen == codes


def test_a_chat_template_gives_a_user_turn_with_the_picture_and_an_assistant_turn(folder, media):
    found = calibration(folder("llava"), write(media / "one.csv", read(media / "all.csv")[:1] * 2), rows=1)
    batch = found.batches[0]
    said = words(folder("llava"), batch.inputs["input_ids"])
    assert said == f"user : {'<image>' * 16} what colour is this w0 </s> assistant : blue </s>".replace(
        "<image>" * 16, " ".join(["<image>"] * 16)
    )
    assert (batch.tokens == batch.names.index("image")).sum() == 16
    assert batch.inputs["pixel_values"].shape == (1, 3, 16, 16)


@pytest.mark.parametrize("chat", ["strings", None])
def test_a_template_for_plain_strings_and_none_at_all_get_their_placeholder(chat, tmp_path, media):
    tiny_folders.llava(tmp_path, chat)
    batch = calibration(tmp_path, media / "all.csv", rows=1).batches[0]
    said = words(tmp_path, batch.inputs["input_ids"])
    assert said.count("<image>") == 16
    assert ("user :" in said) == (chat == "strings")
    assert said.split()[-1] in ("red", "blue")
    assert "{" not in said


def test_sounds_arrive_at_the_rate_of_the_processor_and_the_answer_at_the_decoder(folder, media):
    found = calibration(folder("whisper"), media / "all.csv", rows=ROWS)
    expected = hf.AutoFeatureExtractor.from_pretrained(folder("whisper"))
    place = found.rows.index(2)  # the first row: 16 kHz, one channel
    wave, rate = soundfile.read(media / "0.wav", dtype="float32")
    assert rate == expected.sampling_rate
    features = expected(wave, sampling_rate=rate, return_tensors="pt")["input_features"]
    torch.testing.assert_close(found.batches[place].inputs["input_features"], features)
    assert words(folder("whisper"), found.batches[place].inputs["decoder_input_ids"]) == "<s> blue"
    assert found.columns == {"audio": ("voice",), "text": ("question", "answer")}


def test_loose_parts_are_joined_where_no_processor_joins_them(folder, media, tmp_path):
    root = shutil.copytree(folder("clip"), tmp_path / "loose")
    (root / "processor_config.json").unlink()
    hf.CLIPImageProcessorPil(**tiny_folders.CROPPED).save_pretrained(root)
    said = json.loads((root / "tokenizer_config.json").read_text())
    said.pop("processor_class", None)
    (root / "tokenizer_config.json").write_text(json.dumps(said))
    one = calibration(folder("clip"), media / "all.csv", rows=4)
    assert calibration(root, media / "all.csv", rows=4).sha256 == one.sha256


def test_the_bundled_table_calibrates_pictures_and_voices(folder, tmp_path):
    make_data(tmp_path / "data")
    seen = calibration(folder("llava"), tmp_path / "data", rows=4)
    heard = calibration(folder("qwen2_audio"), tmp_path / "data", rows=4)
    assert seen.columns["image"] == ("photo",)
    assert heard.columns["audio"] == ("voice",)
    assert len(seen.batches) == len(heard.batches) == 4
    assert not seen.skipped
    assert not heard.skipped


def test_a_model_of_our_own_is_calibrated_through_its_own_processor(tiny_trained, tiny_data):
    found = calibration(tiny_trained.loaded.folder, tiny_data, rows=4)
    assert found.columns == {"picture": ("picture",), "sound": ("sound",), "word": ("word",)}
    rows = [{"picture": str(tiny_data / "0_0.png"), "sound": None, "word": "one"}]
    deaf = calibration(tiny_trained.loaded.folder, rows)
    assert set(deaf.batches[0].modality) == {"picture", "word"}
    pieces = [Piece(f"{m}.encoder", (m,), (), f"encoders.{m}") for m in ("picture", "sound", "word")]
    model = read_model(tiny_trained.loaded.folder).model
    assert [one.samples for one in coverage(model, pieces, found.batches)] == [
        {"picture": 4},
        {"sound": 4},
        {"word": 4},
    ]
    with pytest.raises(InputError, match=r"No calibration sample reached sound.encoder"):
        coverage(model, pieces, deaf.batches)


# ---------------------------------------------------------------------------------- absent cells and text


def test_rows_may_lack_a_medium_where_the_model_reads_without(folder, media):
    table = [row if i % 2 else row | {"photo": None} for i, row in enumerate(in_memory(media))]
    found = calibration(folder("llava"), table, rows=ROWS)
    pictured = ["pixel_values" in batch.inputs for batch in found.batches]
    assert pictured.count(True) == pictured.count(False) == ROWS // 2
    assert not found.skipped
    paired = calibration(folder("clip"), table, rows=ROWS)  # CLIP cannot read a text without its picture
    assert len(paired.batches) == len(paired.skipped) == ROWS // 2
    assert all("It has no image" in skipped.reason for skipped in paired.skipped)


def test_a_long_text_is_cut_and_its_media_and_the_end_of_the_turn_stay(folder, media):
    photo, voice, *_ = read(media / "all.csv")[0]
    table = write(media / "long.csv", [[photo, voice, "cat " * 500, "dog " * 3]])
    bounded = calibration(folder("llava"), table, rows=1).batches[0]  # by the model's 64 positions
    asked = calibration(folder("llava"), table, rows=1, length=20).batches[0]
    assert bounded.inputs["input_ids"].shape == (1, 64)
    for batch in (bounded, asked):
        said = words(folder("llava"), batch.inputs["input_ids"])
        assert said.count("<image>") == 16
        assert said.endswith("assistant : dog dog dog </s>")
    assert asked.tokens is not None
    assert (asked.tokens == 0).sum() == 20
    assert calibration(folder("clip"), table, rows=1).batches[0].inputs["input_ids"].shape == (1, 16)


def test_what_a_processor_fills_up_is_no_text_to_be_cut(folder, media):
    batch = calibration(folder("siglip2"), media / "all.csv", rows=1, length=4).batches[0]
    ids = batch.inputs["input_ids"]
    assert ids.shape == (1, 64)
    assert int((ids != 1).sum()) == 4


def test_texts_are_packed_to_the_length(folder, tmp_path):
    table = write(tmp_path / "texts.csv", [[f"cat dog w{i}"] for i in range(20)], ["text"])
    found = calibration(folder("llama"), table, rows=3, length=12)
    assert [batch.inputs["input_ids"].shape for batch in found.batches] == [(1, 12)] * 3
    assert len(found.rows) == 12  # four rows of three words in each
    apart = calibration(folder("llama"), table, rows=3)
    assert [batch.inputs["input_ids"].shape for batch in apart.batches] == [(1, 3)] * 3


# ---------------------------------------------------------------------------------- the draw


def test_the_draw_is_spread_and_the_same_for_a_seed(folder, media):
    one, again, other = (calibration(folder("vit"), in_memory(media), rows=4, seed=s) for s in (0, 0, 1))
    assert (one.rows, one.sha256) == (again.rows, again.sha256)
    assert other.sha256 != one.sha256
    train = len(calibration(folder("vit"), media / "all.csv", rows=10**6).rows)
    assert train < ROWS  # a single table is split, and only its training rows are used
    quarters = [(row - 1) * 4 // ROWS for row in one.rows]
    assert quarters == [0, 1, 2, 3]


def test_batches_beyond_the_memory_limit_are_made_again(folder, media, monkeypatch):
    held = calibration(folder("vit"), media / "all.csv", rows=4)
    monkeypatch.setattr(draw, "HELD_BYTES", 4000)  # a batch has 3,072 bytes
    made = calibration(folder("vit"), media / "all.csv", rows=4)
    assert made.sha256 == held.sha256
    assert made.batches[0] is made.batches[0]
    assert made.batches[3] is not made.batches[3]
    assert torch.equal(made.batches[3].inputs["pixel_values"], held.batches[3].inputs["pixel_values"])
    assert len(made.batches[1:]) == 3


def test_a_row_that_cannot_be_read_is_listed_and_the_next_takes_its_place(folder, media):
    table = in_memory(media)
    (media / "broken.png").write_bytes(b"no picture")
    table[3]["photo"], table[5]["photo"] = "nowhere.png", str(media / "broken.png")
    found = calibration(folder("vit"), table, rows=ROWS)
    assert [skipped.row for skipped in found.skipped] == [4, 6]
    assert "there is no file" in found.skipped[0].reason
    assert "column photo: broken.png cannot be read" in found.skipped[1].reason
    assert len(found.batches) == ROWS - 2
    few = calibration(folder("vit"), table, rows=12)
    assert len(few.batches) == 12


def test_no_readable_row_is_an_error(folder, media, tmp_path):
    table = write(tmp_path / "none.csv", [["gone.png"]] * 12, ["photo"])
    with pytest.raises(InputError, match=r"None of \d+ rows can be used; row \d+: .*gone.png"):
        calibration(folder("vit"), table)
    table = write(media / "silent.csv", [["0.png", ""]] * 12, ["photo", "words"])
    with pytest.raises(InputError, match=r"reads text with every row, but silent\.csv has no such column"):
        calibration(folder("clip"), table)
    with pytest.raises(InputError, match="has no column of image, text, which LlavaForConditionalGeneration reads"):
        calibration(folder("llava"), [{"age": 3}] * 3)
    with pytest.raises(InputError, match="0 rows"):
        calibration(folder("vit"), table, rows=0)


def test_a_processor_that_refuses_every_row_is_not_blamed_on_the_rows(folder, media, tmp_path):
    root = shutil.copytree(folder("llava"), tmp_path / "refusing")
    (root / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    config = json.loads((root / "config.json").read_text())
    config["image_token_index"] = config["image_token_id"] = 99  # the processor writes 100
    (root / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"LlavaProcessor refuses it: .*So it did 8 rows"):
        calibration(root, media / "all.csv")


# ---------------------------------------------------------------------------------- processors of other models


def swap(folder: Path, other: Path, into: Path) -> Path:
    """A folder with the config of one model and the processor of another."""
    shutil.copytree(other, into)
    shutil.copy(folder / "config.json", into / "config.json")
    return into


def test_a_processor_of_another_model_is_refused_with_both_named(folder, media, tmp_path):
    with pytest.raises(MisfitError, match=r"CLIPProcessor .* reads image, text, but .* takes input_features") as caught:
        calibration(swap(folder("whisper"), folder("clip"), tmp_path / "a"), media / "all.csv")
    assert "Put the processor that belongs to this model there" in str(caught.value)

    root = shutil.copytree(folder("whisper"), tmp_path / "waves")
    parts = hf.Wav2Vec2FeatureExtractor(), tiny_folders.tokenizer({})
    hf.Wav2Vec2Processor(*parts).save_pretrained(root)
    with pytest.raises(
        MisfitError, match=r"gives input_values, but the forward of WhisperForCond.* takes input_features"
    ):
        calibration(root, media / "all.csv")

    root = shutil.copytree(folder("whisper"), tmp_path / "mels")
    ears = hf.WhisperFeatureExtractor(**{**tiny_folders.SOUND, "feature_size": 20})
    hf.WhisperProcessor(ears, tiny_folders.tokenizer({})).save_pretrained(root)
    with pytest.raises(MisfitError, match="makes 20 mel bins, but WhisperForConditionalGeneration reads 16"):
        calibration(root, media / "all.csv")

    root = shutil.copytree(folder("llama"), tmp_path / "words")
    tiny_folders.tokenizer({}, size=200, framed=False).save_pretrained(root)
    with pytest.raises(MisfitError, match=r"gives the id 1\d\d in input_ids, but LlamaForCausalLM has .* 128 ids"):
        calibration(root, [{"text": " ".join(f"w{i}" for i in range(140, 150))}])


def test_a_folder_without_a_processor_or_config_says_what_to_do(folder, media, tmp_path):
    shutil.copy(folder("llava") / "config.json", tmp_path / "config.json")
    with pytest.raises(InputError, match="holds no processor that can be loaded") as caught:
        calibration(tmp_path, media / "all.csv")
    assert "Copy the processor's and tokenizer's files" in str(caught.value)
    with pytest.raises(InputError, match="cannot read the config"):
        calibration(tmp_path / "nowhere", media / "all.csv")


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="it is installed")
def test_a_processor_that_needs_torchvision_says_so(folder, media, tmp_path):
    root = shutil.copytree(folder("llava"), tmp_path / "pixtral")
    said = json.loads((root / "processor_config.json").read_text())
    (root / "processor_config.json").write_text(json.dumps({**said, "processor_class": "PixtralProcessor"}))
    with pytest.raises(InputError, match="Install torchvision, which this processor needs"):
        calibration(root, media / "all.csv")


def test_code_that_comes_with_a_folder_is_not_run(folder, media, tmp_path):
    root = shutil.copytree(folder("vit"), tmp_path / "code")
    (root / "evil.py").write_text("raise SystemExit('ran')")
    said = {"processor_class": "Evil", "auto_map": {"AutoProcessor": "evil.Evil"}}
    (root / "processor_config.json").write_text(json.dumps(said))
    found = calibration(root, media / "all.csv", rows=1)  # the image processor beside it is enough
    assert len(found.batches) == 1


# ---------------------------------------------------------------------------------- video


def test_a_column_of_videos_is_found_and_its_frames_are_spread_over_the_clip(tmp_path):
    shades = np.repeat(10 * np.arange(16, dtype=np.uint8), 16 * 16 * 3).reshape(16, 16, 16, 3)
    (tmp_path / "a.mp4").write_bytes(encoded(shades))
    table, columns = read_rows([{"film": str(tmp_path / "a.mp4"), "question": "what is it"}], None)
    assert (columns.video, columns.text) == (("film",), ("question",))
    (clip,) = Rows(table, columns).read(0).clips
    assert clip.shape == (8, 16, 16, 3)
    assert (clip[:, 0, 0, 0] / 10).round().tolist() == [1, 3, 5, 7, 9, 11, 13, 15]


def test_a_column_of_videos_that_a_model_does_not_read_is_left_alone(folder, media, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    rows = [{"photo": str(media / f"{i}.png"), "film": "a.mp4", "question": f"what w{i}"} for i in range(4)]
    found = calibration(folder("qwen2_vl"), rows)  # without torchvision its processor reads no video
    assert found.columns == {"image": ("photo",), "text": ("question",)}
    told = calibration(folder("llava"), rows, schema={"film": "video", "question": "text"})
    assert told.columns == {"image": ("photo",), "text": ("question",)}


# ---------------------------------------------------------------------------------- ready tensors


def test_ready_tensors_are_split_into_rows_with_the_codes_they_bring(folder, tmp_path):
    ids = torch.arange(4 * 5).reshape(4, 5)
    codes = torch.tensor([[0, 1, 1, 0, -1]] * 4)
    for name in ("a", "b"):
        save_file({"input_ids": ids, "__tokens__": codes}, tmp_path / f"{name}.safetensors")
        ids = ids + 20
    found = calibration(folder("llama"), tmp_path, rows=8)
    assert sorted(found.rows) == list(range(1, 9))
    assert all(torch.equal(batch.tokens, codes[:1]) for batch in found.batches)
    assert {int(batch.inputs["input_ids"][0, 0]) for batch in found.batches} == {i * 5 for i in range(8)}
    one = calibration(folder("llama"), tmp_path / "a.safetensors", rows=2)
    assert len(one.batches) == 2
    memory = calibration(folder("llama"), [{"input_ids": torch.arange(20).reshape(4, 5)}], rows=4)
    file = calibration(folder("llama"), tmp_path / "a.safetensors", rows=4)
    assert memory.sha256 == file.sha256  # of what the forward is given


def test_ready_tensors_that_do_not_fit_are_refused_by_name(folder, tmp_path):
    ids = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(MisfitError, match=r"batch 1, row 1 gives words, but .* LlamaForCausalLM does not take words"):
        calibration(folder("llama"), [{"words": ids}])
    with pytest.raises(MisfitError, match="id 128 in input_ids"):
        calibration(folder("llama"), [{"input_ids": ids + 128}])
    with pytest.raises(InputError, match=r"__tokens__ is torch.int64 of \(1, 2\)"):
        calibration(folder("llama"), [{"input_ids": ids, "__tokens__": ids[:, :2]}])
    with pytest.raises(InputError, match="__tokens__ holds 7"):
        calibration(folder("llama"), [{"input_ids": ids, "__tokens__": ids + 7}])
    pixels = torch.zeros(2, 3, 16, 16)
    pixels[1, 0, 0, 0] = torch.nan
    found = calibration(folder("vit"), [{"pixel_values": pixels}])
    assert (found.rows, found.skipped[0].row) == ((1,), 2)
    assert "NaN" in found.skipped[0].reason
    (tmp_path / "cut.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        calibration(folder("llama"), tmp_path)


def test_patches_of_several_pictures_stay_with_their_rows(folder):
    grid = torch.tensor([[1, 4, 4], [1, 4, 4]])
    ids = torch.tensor([[5, *[tiny_folders.IMAGE] * 4, 6]] * 2)
    batch = {"input_ids": ids, "pixel_values": torch.randn(32, 96), "image_grid_thw": grid}
    found = calibration(folder("qwen2_vl"), [batch])
    assert len(found.batches) == 1
    assert found.batches[0].inputs["input_ids"].shape == (2, 6)
    assert found.batches[0].tokens is not None
    assert (found.batches[0].tokens == 1).sum() == 8


def test_positions_of_a_language_sequence_are_told_apart_by_the_configs_placeholders():
    config = hf.Qwen2VLConfig(image_token_id=7, video_token_id=8)
    codes, names = token_modality(config, torch.tensor([[1, 7, 7, 8], [7, 2, 3, 4]]))
    assert names == ("text", "image", "video", "audio")
    assert codes.tolist() == [[0, 1, 1, 2], [1, 0, 0, 0]]


# ---------------------------------------------------------------------------------- coverage


class Piece(NamedTuple):
    name: str
    modalities: tuple[str, ...]
    blocks: tuple[str, ...]
    prefix: str

    def owns(self, parameter: str) -> bool:
        return parameter.startswith(self.prefix)


LLAVA = (
    Piece("image.encoder", ("image",), tuple(f"model.vision_tower.encoder.layers.{i}" for i in (0, 1)), "model.vision"),
    Piece("image.connector", ("image",), (), "model.multi_modal_projector"),
    Piece("decoder", ("image", "text"), tuple(f"model.language_model.layers.{i}" for i in (0, 1)), "model.language"),
)
WHISPER = (
    Piece("audio.encoder", ("audio",), ("model.encoder.layers.0",), "model.encoder"),
    Piece("decoder", ("audio", "text"), ("model.decoder.layers.0",), "model.decoder"),
)


def test_coverage_counts_samples_and_tokens_of_each_modality_at_each_component(folder, media):
    table = [row if i % 2 else row | {"photo": None} for i, row in enumerate(in_memory(media))]
    found = calibration(folder("llava"), table, rows=ROWS)
    pictured = sum("pixel_values" in batch.inputs for batch in found.batches)
    texts = sum(int((batch.tokens == 0).sum()) for batch in found.batches if batch.tokens is not None)
    model = tiny_folders.model_of(folder("llava"))
    assert coverage(model, LLAVA, found.batches) == [
        Coverage("image.encoder", {"image": pictured}, {"image": 17 * pictured}),  # 16 patches and the class
        Coverage("image.connector", {"image": pictured}, {"image": 16 * pictured}),
        Coverage("decoder", {"image": pictured, "text": len(found.batches)}, {"image": 16 * pictured, "text": texts}),
    ]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_comes_in_by_cross_attention_has_samples_and_no_tokens(folder, media):
    found = calibration(folder("whisper"), media / "all.csv", rows=3)
    encoder, decoder = coverage(tiny_folders.model_of(folder("whisper")), WHISPER, found.batches)
    assert (encoder.samples, encoder.tokens) == ({"audio": 3}, {"audio": 60})
    assert decoder.samples == {"audio": 3, "text": 3}
    assert decoder.tokens == {"audio": 0, "text": 6}  # <s> and one word in each row


def test_a_component_that_saw_no_sample_is_an_error_that_says_which_column_to_add(folder, tmp_path):
    table = write(tmp_path / "texts.csv", [[f"what is this w{i}"] for i in range(20)], ["text"])
    found = calibration(folder("llava"), table, rows=3)
    model = tiny_folders.model_of(folder("llava"))
    with pytest.raises(InputError, match=r"No calibration sample reached image.encoder: none has image") as caught:
        coverage(model, LLAVA, found.batches)
    assert "Add a column of images" in str(caught.value)
    decoder = coverage(model, LLAVA[2:], found.batches)[0]
    assert decoder.missing == ("image",)
    assert decoder.tokens["text"] > 0


def test_a_batch_that_the_model_does_not_accept_is_named(folder):
    found = calibration(folder("vit"), [{"pixel_values": torch.zeros(1, 3, 20, 20)}])
    with pytest.raises(
        InputError, match=r"ViT.* does not accept calibration batch 1 \(pixel_values \(1, 3, 20, 20\)\)"
    ):
        coverage(tiny_folders.model_of(folder("vit")), [Piece("vit", ("image",), (), "vit")], found.batches)


def test_coverage_is_shown_as_a_table_with_a_warning_for_what_is_missing(capsys):
    console.set_mode()
    show([Coverage("decoder", {"image": 0, "text": 1200}, {"image": 0, "text": 34567})])
    said = capsys.readouterr()
    assert "decoder    text        1,200  34,567" in said.out
    assert "no image among the samples of decoder; add a column of images" in " ".join(said.err.split())
