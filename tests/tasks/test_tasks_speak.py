"""Sounds that are made: a tone a word, on the whole path from the table to the engines and the file."""

import csv

import numpy as np
import pytest
import soundfile
import torch

from triptych.compress import plan as plans
from triptych.compress.gate import Contract
from triptych.compress.planner import Budget
from triptych.compress.quantize.layers import weights
from triptych.compress.run import compress
from triptych.data.audio import AudioFeatures
from triptych.data.check import check
from triptych.data.samples import Samples
from triptych.data.schema import guess
from triptych.data.splits import read_splits
from triptych.data.table import read_table
from triptych.data.vocoder import cepstral_distance, spectrograms, waveform
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError
from triptych.evaluate.predict import predict_fields, predict_table
from triptych.evaluate.size import size_bytes
from triptych.export.verb import export_model
from triptych.recipe import Recipe, parse
from triptych.report.build import build_report
from triptych.report.page import render
from triptych.train.run import train_recipe

RATE = 8000
TONES = {"low": (400, 0.12), "middle": (900, 0.2), "high": (1700, 0.28)}  # Hz and seconds
OPEN = Contract(keep=0.0, keep_modality=-100.0)


def tone(word, rng):
    hertz, seconds = TONES[word]
    time = np.arange(int(RATE * seconds * rng.uniform(0.95, 1.05))) / RATE
    return (rng.uniform(0.2, 0.8) * np.sin(2 * np.pi * hertz * time + rng.uniform(0, 6))).astype(np.float32)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Three words, each a tone of its own pitch and length."""
    folder, rng = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for split, takes in (("train", 8), ("valid", 2), ("test", 2)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["word", "voice"])
            for word in TONES:
                for take in range(takes):
                    soundfile.write(folder / f"{split}_{word}_{take}.wav", tone(word, rng), RATE)
                    table.writerow([word, f"{split}_{word}_{take}.wav"])
    (folder / "schema.yaml").write_text("word: text\nvoice: audio:target\n")
    return folder


def recipe(data, **task):
    content = {
        "data": {"path": str(data)},
        "model": {
            "inputs": {"word": {"features": {"level": "character"}, "encoder": {"name": "rnn", "hidden": 16}}},
            "target": {"mels": 24, "n_fft": 256, "hop_length": 128, "seconds": 0.32},
            "fusion": {"width": 32},
            "task": {"layers": 1, "feedforward": 64, **task},
        },
        "train": {"steps": 120, "batch_size": 24, "augment": False, "optimizer": {"lr": 0.005}},
    }
    return parse(Recipe, content, "the recipe")


@pytest.fixture(scope="module")
def model(tones, tmp_path_factory):
    return train_recipe(recipe(tones), tmp_path_factory.mktemp("spoken") / "model")


def rows_of(made):
    return Samples(made.splits.table("test"), made.loaded.processor, made.splits.schema)


def test_it_says_what_is_asked(model):
    samples = rows_of(model)
    batch = samples.batch(range(len(samples)))
    said = TorchEngine(model.loaded.model)(batch.inputs, batch.presence)
    task = model.loaded.model.task
    assert task.scores(said, samples.labels).mean() > 0.6
    assert task.metrics(said, samples.labels)["seconds_off"] < 0.05
    for word, answer in zip(samples.table.column("word"), task.answers(said), strict=True):
        spectrum = np.abs(np.fft.rfft(answer["sound"], RATE))
        assert abs(int(spectrum.argmax()) - TONES[word][0]) < 60
    engine = OpenVINOEngine(model.loaded.model, (batch.inputs, batch.presence), threads=1)
    np.testing.assert_allclose(engine(batch.inputs, batch.presence), said, atol=1e-3)


def test_compressed_exported_told_and_kept(model, tmp_path):
    names = [width.name for width in model.loaded.model.widths() if width.name.endswith("feedforward")]
    passes = (
        plans.Prune(keep=dict.fromkeys(names, 32), rows=24),
        plans.Distil(steps=4, batch_size=24),
        plans.Quantise(method="rtn", rows=24, layers=dict.fromkeys(weights(model.loaded.model), "w8")),
    )
    outcome = compress(
        model.loaded, model.splits, tmp_path / "small", budget=Budget(), contract=OPEN, plan=plans.Plan(passes=passes)
    )
    assert size_bytes(outcome.loaded.folder) < 0.5 * size_bytes(model.loaded.folder)
    assert outcome.after.mean() > 0.4
    page = render(build_report(model.loaded, outcome, model.splits, title="tones", command="triptych"))
    assert page.count("<audio") == 3 * len(model.splits.table("test"))  # real, before and after
    export_model(outcome.loaded.folder, "openvino", tmp_path / "exported")

    answer = predict_fields(model.loaded.folder, ["word=high"], tmp_path / "high.wav")
    wave, rate = soundfile.read(answer["file"])
    assert rate == RATE
    assert len(wave) / RATE == pytest.approx(TONES["high"][1], abs=0.06)
    with pytest.raises(InputError, match=r"high\.wav exists already"):
        predict_fields(model.loaded.folder, ["word=high"], tmp_path / "high.wav")
    with pytest.raises(InputError, match=r"is no place for a sound.*ends in \.wav"):
        predict_fields(model.loaded.folder, ["word=high"], tmp_path / "high.png")
    told = predict_table(model.loaded.folder, model.splits.table("test").source, tmp_path / "all")
    assert told["predictions"][0]["file"] == str(tmp_path / "all" / "train-0.wav")
    assert "sound" not in told["predictions"][0]


def test_the_true_length_is_told_in_training_alone(model):
    samples = rows_of(model)
    batch = samples.batch(range(len(samples)))
    task, inner = model.loaded.model.task, model.loaded.model
    with torch.no_grad():
        forced = inner(batch.inputs, batch.presence, labels=batch.labels)
    silent = np.isnan(samples.labels)
    floor = (-80 - np.array(task.config.mean)) / task.config.deviation
    shown = np.broadcast_to(floor, silent.shape)[silent]
    np.testing.assert_allclose(forced.logits[..., :-1].numpy()[silent], shown, atol=1e-4)
    assert torch.isfinite(forced.loss)


def test_the_same_words_in_two_splits_are_no_leak(tones):
    splits = read_splits(tones)
    assert splits.schema.target.kind == "audio"
    report = check(splits.tables, splits.schema)
    assert not report.of("error")
    assert guess(read_table(tones / "train.csv"), target="voice", overrides={}).target.kind == "audio"


def test_spectrograms_that_no_sound_is_made_of_are_refused(tones, tmp_path):
    asked = recipe(tones)
    target = {**asked.model.target, "mel_scale": "htk"}
    asked = asked.model_copy(update={"model": asked.model.model_copy(update={"target": target})})
    with pytest.raises(InputError, match=r"no sound can be made of such spectrograms again\. Leave out .*mel_scale"):
        train_recipe(asked, tmp_path / "model")


def test_clips_that_nothing_can_learn_from_are_refused(tones, tmp_path):
    rows = (tones / "train.csv").read_text().replace("train_", f"{tones}/train_").splitlines()
    soundfile.write(tmp_path / "silent.wav", np.zeros(800), RATE)
    (tmp_path / "noise.wav").write_bytes(b"RIFF no sound")
    rows += ["low,silent.wav", "low,noise.wav", "low,gone.wav", "low,"]
    (tmp_path / "bad.csv").write_text("\n".join(rows))
    table = read_table(tmp_path / "bad.csv")
    report = check({"train": table}, guess(table, overrides={"word": "text", "voice": "audio:target"}))
    assert report.left_out("train") == [24, 25, 26, 27]
    features = AudioFeatures(AudioFeatures.Config(seconds=0.3, sampling_rate=RATE, mels=24))
    with pytest.raises(InputError, match="here: the sound is silent, and it is what the model learns"):
        spectrograms(features, ["silent.wav"], tmp_path, ["here"])


def test_a_task_that_speaks_needs_a_sound(told, tmp_path):
    content = {"data": {"path": str(told)}, "model": {"task": {"name": "speak"}}, "train": {"steps": 1}}
    with pytest.raises(InputError, match=r"The task makes sounds, but the target german is a text"):
        train_recipe(parse(Recipe, content, "the recipe"), tmp_path / "model")


def test_a_waveform_has_the_spectrogram_that_it_was_made_of():
    features = AudioFeatures(AudioFeatures.Config(seconds=0.5, sampling_rate=RATE, mels=40, n_fft=256, hop_length=64))
    wave = tone("middle", np.random.default_rng(1))
    padded = torch.nn.functional.pad(torch.from_numpy(wave), (0, features.samples - len(wave)))
    told = features.spectrogram(padded[None])[0, 0].T
    told = (told - told.max())[: 1 + len(wave) // 64].numpy()
    again = waveform(features, told)
    assert np.array_equal(again, waveform(features, told))
    back = features.spectrogram(torch.from_numpy(np.pad(again, (0, features.samples - len(again))))[None])[0, 0].T
    back = (back - back.max())[: len(told)].numpy()
    assert cepstral_distance(told, told) == 0
    assert cepstral_distance(told, back) < 0.5 * cepstral_distance(told, np.flip(told, 1))
