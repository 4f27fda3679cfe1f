import numpy as np
import pytest
import torch

from triptych.data.check import check
from triptych.data.splits import read_splits
from triptych.errors import InputError
from triptych.evaluate.quality import conditions, measure
from triptych.models.make import make_model
from triptych.recipe import InputSettings, ModelSettings
from triptych.tasks import Retrieve


def unit(rows):
    vectors = np.array(rows, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_a_photo_with_several_captions_asks_once_and_is_found_by_any_of_them():
    photo, other = [1.0, 0, 0], [0, 1.0, 0]
    pairs = [[photo, [1.0, 0.1, 0]], [photo, [0.1, 1.0, 0]], [other, [0, 1.0, 0.05]]]
    found = Retrieve(Retrieve.Config(), 3).metrics(unit(pairs), np.array([7, 7, 8]))
    assert found["first_to_second_r1"] == 1  # two photos, each nearest to a caption of its own
    assert found["second_to_first_r1"] == pytest.approx(2 / 3)  # three captions, one of them nearer to the other photo
    assert found["second_to_first_median_rank"] == 1


def test_without_a_modality_chance_is_counted_not_tried():
    rng = np.random.default_rng(0)
    vectors = unit(np.stack([np.ones((50, 4)), rng.standard_normal((50, 4))], axis=1))
    task = Retrieve(Retrieve.Config(k=10), 4)
    scores = task.scores(vectors, np.arange(50))
    # a constant question finds ten of fifty, whichever they are; a constant gallery gives each a chance of a fifth
    assert scores.mean() == pytest.approx(0.2)
    assert np.unique(scores.round(9)).tolist() == [0.1, 0.6]


def test_rows_of_one_thing_are_no_counterexamples():
    vectors = torch.tensor(unit([[[1, 0], [1, 0]], [[1, 0], [1, 0]]]))
    task = Retrieve(Retrieve.Config(), 2)
    assert float(task.loss(vectors, torch.tensor([0, 0])).detach()) == 0
    assert float(task.loss(vectors, torch.tensor([0, 1])).detach()) == pytest.approx(np.log(2))


def test_models_that_match_alike_do_not_diverge():
    torch.manual_seed(0)
    said, told = (torch.nn.functional.normalize(torch.randn(6, 2, 4), dim=-1) for _ in range(2))
    task = Retrieve(Retrieve.Config(), 4)
    turned = said @ torch.linalg.qr(torch.randn(4, 4)).Q  # both towers turned alike
    assert float(task.divergence(turned, said)) == pytest.approx(0, abs=1e-6)
    assert float(task.divergence(told, said)) > 0.01
    assert float(task.divergence(told.flatten(0, 1), said.flatten(0, 1))) == float(task.divergence(told, said))


def test_it_is_trained_scored_and_asked(matched):
    trained = matched.trained
    model, rows = trained.loaded.model, matched.samples("test")
    assert model.task.metric == "hit@1"
    quality = measure(matched.engine, model.task, rows)
    assert quality.mean() > 0.9
    assert quality.mean("without:picture") < 0.7
    assert set(quality.scores) == set(conditions(model.fields))
    assert list(rows.groups) == ["digit"]  # an identity groups its rows: an interval draws whole digits
    assert model.task.answers(quality.outputs)[0]["similarity"] > 0.3


def test_identities_need_not_be_known_from_training(matched):
    splits = matched.trained.splits
    table = splits.table("test")
    column = table.rows.column_names.index("digit")
    renamed = table.rows.set_column(column, "digit", [[f"new {cell}" for cell in table.column("digit")]])
    strange = type(table)(renamed, table.root, table.source, "", table.numbers, table.unit)
    found = check({**splits.tables, "test": strange}, splits.schema)
    assert not [finding for finding in found.findings if finding.split == "test"]
    target = matched.trained.loaded.processor.target
    assert target.encode(strange).tolist() == target.encode(table).tolist()


def test_three_inputs_and_other_fusions_are_refused(matched):
    processor, labels = matched.trained.loaded.processor, np.zeros(4, dtype=np.int64)
    with pytest.raises(InputError, match=r"'concat' does not give.*Choose separate"):
        make_model(ModelSettings(fusion={"name": "concat"}), processor, labels, 0)
    three = type(processor)({**processor.features, "again": processor.features["sound"]}, processor.target)
    with pytest.raises(InputError, match="two inputs with each other; there are 3: picture, sound, again"):
        make_model(ModelSettings(inputs={"again": InputSettings()}), three, labels, 0)


def test_an_identity_is_a_target_alone(matched):
    with pytest.raises(InputError, match="'sound' holds identity, which a model answers and never reads"):
        read_splits(matched.folder, overrides={"sound": "identity:input"})
