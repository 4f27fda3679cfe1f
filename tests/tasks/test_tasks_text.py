"""Tasks whose answer is a text, on the whole path: table, training, engines, compression, export, prediction."""

import json

import numpy as np
import pytest
import soundfile
import torch

from triptych.compress import plan as plans
from triptych.compress.gate import Contract
from triptych.compress.planner import Budget
from triptych.compress.run import compress
from triptych.data.samples import Samples
from triptych.data.schema import guess
from triptych.data.table import read_table
from triptych.data.target import Target
from triptych.decoders.ctc import read_off
from triptych.decoders.search import Sampler
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError
from triptych.evaluate.predict import predict_fields, predict_table
from triptych.evaluate.size import size_bytes
from triptych.export.verb import export_model
from triptych.models.store import read_model
from triptych.recipe import Recipe, parse
from triptych.tasks import settled
from triptych.tasks.transcribe import Transcribe
from triptych.tasks.wording import Wording
from triptych.train.run import train_recipe

OPEN = Contract(keep=0.0, keep_modality=-100.0)
WORDS = {"features": {"level": "word"}, "encoder": {"name": "rnn", "hidden": 32, "layers": 1, "bidirectional": True}}
TASKS = {
    "recurrent": {"name": "write", "decoder": {"name": "rnn", "embedding": 32, "hidden": 48, "attention": 32}},
    "transformer": {
        "name": "write",
        "decoder": {"name": "transformer", "heads": 2, "layers": 1, "feedforward": 64},
        "beams": 2,
    },
    "ctc": {"name": "transcribe", "score": "exact"},
}


def trained(task, data, out, **train):
    content = {
        "data": {"path": str(data)},
        "model": {"inputs": {"words": WORDS}, "fusion": {"width": 32}, "task": task},
        "train": {"steps": 150, "batch_size": 36, "optimizer": {"lr": 0.01}, "modality_dropout": 0.0, **train},
    }
    return train_recipe(parse(Recipe, content, "the recipe"), out)


@pytest.fixture(scope="module", params=TASKS)
def model(request, told, tmp_path_factory):
    return trained(TASKS[request.param], told, tmp_path_factory.mktemp("written") / "model")


def rows_of(made):
    return Samples(made.splits.table("test"), made.loaded.processor, made.splits.schema)


def test_it_learns_and_both_engines_say_the_same(model):
    samples = rows_of(model)
    batch = samples.batch(range(len(samples)))
    said = TorchEngine(model.loaded.model)(batch.inputs, batch.presence)
    task = model.loaded.model.task
    ids = settled(task, said)
    quality = task.scores(ids, samples.labels).mean()
    assert quality > (
        0.6 if isinstance(task, Transcribe) else 0.9
    )  # CTC cannot spell a word twice running in as many places
    engine = OpenVINOEngine(model.loaded.model, (batch.inputs, batch.presence), threads=1)
    again = engine(batch.inputs, batch.presence)
    if said.dtype == np.int64:
        assert np.array_equal(again, said)
    else:
        np.testing.assert_allclose(again, said, atol=1e-3)
    assert task.metrics(ids, samples.labels)["exact"] == pytest.approx(quality)


def test_the_same_seed_draws_the_same_text_in_every_engine(model):
    if isinstance(model.loaded.model.task, Transcribe):
        with pytest.raises(InputError, match=r"does not write token by token, so nothing can be drawn"):
            predict_fields(model.loaded.folder, ["words=two three"], sampler=Sampler())
        return
    samples = rows_of(model)
    batch = samples.batch(range(len(samples)))
    torch_engine, openvino = read_model(model.loaded.folder).model, model.loaded.model
    engines = TorchEngine(torch_engine), OpenVINOEngine(openvino, (batch.inputs, batch.presence), threads=1)

    def drawn(seed):
        torch_engine.task.sampler, engines[1].sampler = (Sampler(temperature=3.0, top_k=5, seed=seed) for _ in engines)
        return [engine(batch.inputs, batch.presence) for engine in engines]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert np.array_equal(first[0], first[1])
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    hot = [predict_fields(model.loaded.folder, ["words=two three six"], sampler=Sampler(9.0, seed=s)) for s in range(8)]
    assert len({one["answer"] for one in hot}) > 1


def test_compressed_exported_and_asked(model, tmp_path):
    samples = rows_of(model)
    budget = Budget(size_bytes=int(0.6 * size_bytes(model.loaded.folder)))
    short = plans.Distil(steps=4, batch_size=16)
    outcome = compress(model.loaded, model.splits, tmp_path / "small", budget=budget, contract=OPEN, distil=short)
    assert size_bytes(outcome.loaded.folder) <= budget.size_bytes
    assert outcome.loaded.quantized
    batch = samples.batch(range(4))
    engine = OpenVINOEngine(outcome.loaded.model, (batch.inputs, batch.presence), outcome.loaded.quantized, threads=1)
    task = outcome.loaded.model.task
    runs = (engine, TorchEngine(outcome.loaded.model))
    ours, theirs = (settled(task, run(batch.inputs, batch.presence)) for run in runs)
    assert [a["answer"] for a in task.answers(ours)] == [a["answer"] for a in task.answers(theirs)]

    export_model(outcome.loaded.folder, "openvino", tmp_path / "exported")
    read = OpenVINOEngine.read(tmp_path / "exported" / "openvino_model.xml", threads=1)
    one = samples.batch([0])
    np.testing.assert_allclose(read(one.inputs, one.presence), engine(one.inputs, one.presence), atol=1e-3)

    answer = predict_fields(model.loaded.folder, ["words=two three", "hurry=no"])
    assert isinstance(answer["answer"], str)
    table = predict_table(model.loaded.folder, model.splits.table("test").source)
    assert len(table["predictions"]) == len(samples)


def test_the_same_seed_ends_in_the_same_weights(told, tmp_path):
    whole = trained(TASKS["recurrent"], told, tmp_path / "whole", steps=6)
    again = trained(TASKS["recurrent"], told, tmp_path / "again", steps=6)
    for name, value in whole.loaded.model.state_dict().items():
        assert torch.equal(value, again.loaded.model.state_dict()[name]), name


def test_a_list_is_guessed_to_be_a_text(told):
    table = read_table(told / "train.jsonl")
    assert guess(table, target="german").target.kind == "text"
    assert guess(table, target="hurry").target.kind == "category"


def test_texts_that_nothing_can_learn_from_are_refused(told, tmp_path):
    rows = [json.loads(line) for line in (told / "train.jsonl").read_text().splitlines()]
    rows[2]["german"] = ["", "drei"]
    (tmp_path / "bad.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    table = read_table(tmp_path / "bad.jsonl")
    target = Target(name="german", kind="text", text=rows_text())
    with pytest.raises(InputError, match=r"bad\.jsonl, line 3, column german: a text without a word cannot be learned"):
        target.encode(table)


def rows_text():
    from triptych.data.text import TextFeatures

    return TextFeatures(TextFeatures.Config(level="word")).fit(["eins zwei drei"]).state()


def test_a_task_for_texts_needs_a_text(tiny_recipe, tiny_data, tmp_path):
    wanted = tiny_recipe.model_copy(
        update={
            "data": tiny_recipe.data.model_copy(update={"path": str(tiny_data)}),
            "model": tiny_recipe.model.model_copy(update={"task": {"name": "write"}, "fusion": {}}),
        }
    )
    with pytest.raises(InputError, match=r"The task learns texts, but the target match is a category"):
        train_recipe(wanted, tmp_path / "model")


def test_a_fusion_that_gives_no_tokens_is_refused(told, tmp_path):
    content = {"data": {"path": str(told)}, "model": {"fusion": {"name": "concat"}}, "train": {"steps": 1}}
    with pytest.raises(InputError, match=r"The task 'write' reads tokens, which the fusion 'concat' does not give"):
        train_recipe(parse(Recipe, content, "the recipe"), tmp_path / "model")


def test_error_rates_are_edits_over_what_was_to_be_said():
    from triptych.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer("word", ["the cat sat on a mat"], 300)
    ids = {word: tokenizer.encode(word)[0] for word in ("the", "cat", "sat", "on", "a", "mat")}

    def row(text, length=6):
        found = [ids[word] for word in text.split()]
        return found + [0] * (length - len(found))

    written = np.array([row("the cat sat"), row("a cat"), row("")])
    labels = np.array([[row("the cat sat"), row("")], [row("the cat sat on"), row("a mat")], [row("sat"), row("")]])
    wording = Wording(tokenizer.state(), "words")
    assert wording.metrics(written, labels)["wer"] == pytest.approx((0 + 1 + 1) / (3 + 2 + 1))
    assert wording.scores(written, labels).mean() == pytest.approx(1 - 2 / 6)
    assert wording.metrics(written, labels)["exact"] == pytest.approx(1 / 3)


def test_ctc_reads_off_what_the_places_spell():
    best = np.array([[0, 2, 2, 0, 2, 3, 3], [3, 3, 3, 3, 3, 3, 3], [0, 0, 0, 0, 0, 0, 0]])
    logits = np.eye(5)[best] * 9
    logits[2, 3, 1] = 99  # what the vocabulary lacks is never spelled
    assert read_off(logits).tolist() == [[2, 2, 3, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0], [0] * 7]


def test_an_ngram_is_kept_with_the_model_and_chooses_among_texts(told, tmp_path):
    asked = {"name": "transcribe", "beams": 8, "ngram": 4, "ngram_weight": 2.0, "token_bonus": 0.1}
    made = trained(asked, told, tmp_path / "model", steps=4)
    task = read_model(tmp_path / "model").model.task
    assert task.config == made.loaded.model.task.config
    texts = task.wording.told(rows_of(made).labels)
    ids = {word: task.wording.tokenizer.encode(word)[0] for word in ("zwei", "drei")}
    assert sum(task.config.counts.values()) == 4 * len(made.splits.table("train"))
    assert {len(told[0].split()) for told in texts} == {3}
    logits = np.zeros((1, 9, task.config.vocabulary), dtype=np.float32)
    logits[0, ::2, 0] = 5  # four words with blanks between; four were never said
    logits[0, 1::2, list(ids.values())] = 4
    said = settled(task, logits)
    assert 0 < (said != 0).sum() <= 3
    assert set(said[said != 0].tolist()) <= set(ids.values())


@pytest.fixture
def tones(tmp_path):
    """A second of sound that is high or low, and what it says."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for split, count in (("train", 24), ("valid", 6), ("test", 6)):
        rows = []
        for number in range(count):
            high = number % 2
            wave = np.sin(2 * np.pi * (300 + 900 * high) * np.arange(4_000) / 4_000) * np.hanning(4_000)
            wave = (wave + 0.01 * rng.standard_normal(4_000)).astype(np.float32)
            soundfile.write(tmp_path / "data" / f"{split}{number}.wav", wave, 4_000)
            rows.append({"voice": f"{split}{number}.wav", "said": "high" if high else "low"})
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "data" / "schema.yaml").write_text("voice: audio\nsaid: text:target\n")
    return tmp_path


def test_a_sound_longer_than_the_window_is_read_in_pieces_and_not_cut(tones):
    content = {
        "data": {"path": str(tones / "data")},
        "model": {
            "inputs": {"voice": {"features": {"mels": 16}, "encoder": {"name": "rnn", "hidden": 16, "layers": 1}}},
            "fusion": {"width": 16},
            "task": {"name": "transcribe"},
        },
        "train": {"steps": 80, "batch_size": 24, "optimizer": {"lr": 0.01}, "modality_dropout": 0.0, "augment": False},
    }
    train_recipe(parse(Recipe, content, "the recipe"), tones / "model")
    parts = [soundfile.read(tones / "data" / f"test{number}.wav")[0] for number in (1, 0, 1)]
    soundfile.write(tones / "long.wav", np.concatenate(parts), 4_000)
    assert predict_fields(tones / "model", [f"voice={tones / 'long.wav'}"])["answer"] == "high low high"
    (tones / "asked.jsonl").write_text(json.dumps({"voice": "long.wav", "said": "high low high"}))
    (tones / "schema.yaml").write_text("voice: audio\nsaid: text:target\n")
    found = predict_table(tones / "model", tones / "asked.jsonl")
    assert found["predictions"][0]["answer"] == "high low high"
