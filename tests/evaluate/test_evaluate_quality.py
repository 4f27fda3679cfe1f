import numpy as np
import pytest
import torch

from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.evaluate.quality import conditions, derangement, measure
from triptych.tasks.classify import Classify


@pytest.fixture(scope="module")
def samples(tiny_data, tiny_recipe):
    splits = read_splits(tiny_data)
    settings = {name: i.features for name, i in tiny_recipe.model.inputs.items()}
    processor = Processor.fit(splits.table("train"), splits.schema, settings)
    return Samples(splits.table("test"), processor, splits.schema)


@pytest.fixture
def task(samples):
    return Classify(Classify.Config(labels=samples.processor.labels), 4)


def test_conditions_remove_and_shuffle_each_field():
    assert conditions(("a", "b")) == ["all", "without:a", "without:b", "shuffled:a", "shuffled:b"]
    assert conditions(("a",)) == ["all", "shuffled:a"]


@pytest.mark.parametrize("rows", [2, 3, 10, 101])
def test_a_derangement_moves_every_row_and_loses_none(rows):
    moved = derangement(rows, seed=rows)
    assert sorted(moved) == list(range(rows))
    assert (moved != np.arange(rows)).all()


def test_a_model_that_reads_one_field_is_seen_to(samples, task):
    """The oracle reads the brightest colour and the word; the sound may go."""
    words = samples.batch(range(len(samples))).inputs["word"]
    spoken = {tuple(w.tolist()): i for i, w in enumerate(torch.unique(words, dim=0))}
    truth = samples.labels
    assert truth is not None
    colour = samples.batch(range(len(samples))).inputs["picture"].mean((2, 3)).argmax(1)
    same = task.config.labels.index("same")
    pairs = {(int(c), spoken[tuple(w.tolist())]) for c, w, y in zip(colour, words, truth, strict=True) if y == same}

    def oracle(inputs, presence):
        logits = np.zeros((len(presence), 2), dtype=np.float32)
        for row in range(len(presence)):
            pair = (
                int(inputs["picture"][row].mean((1, 2)).argmax()),
                spoken.get(tuple(inputs["word"][row].tolist()), -1),
            )
            known = bool(presence[row, 0] and presence[row, 2])
            logits[row, same if (known and pair in pairs) else 1 - same] = 1
        return logits

    found = measure(oracle, task, samples)
    assert found.mean() == 1
    assert found.mean("without:sound") == 1
    assert found.mean("shuffled:sound") == 1
    assert found.mean("without:picture") == pytest.approx((truth != same).mean())
    assert found.mean("shuffled:word") < 0.9
    report = found.report()
    assert report["metric"] == "accuracy"
    assert set(report["without"]) == {"picture", "sound", "word"}


def test_only_asked_conditions_are_run(samples, task):
    calls = []

    def constant(inputs, presence):
        calls.append(presence)
        return np.zeros((len(presence), 2), dtype=np.float32)

    found = measure(constant, task, samples, only=["all", "without:word"], batch_size=16)
    assert set(found.scores) == {"all", "without:word"}
    assert len(calls) == 4
    assert not calls[1][:, 2].any()
