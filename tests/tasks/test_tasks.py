import numpy as np
import pytest
import torch

from triptych.data.target import Target
from triptych.tasks import Classify, Regress


@pytest.fixture
def classify():
    return Classify(Classify.Config(labels=("a", "b", "c"), label_smoothing=0.1, class_weights=(1.0, 2.0, 0.5)), 4)


def test_cross_entropy_equals_its_formula(classify):
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 1, 0, 2])
    log_p = logits.log_softmax(1)
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    total = 0.0
    for row, label in enumerate(labels):
        total += 0.9 * -log_p[row, label] * weights[label] + 0.1 / 3 * sum(
            -log_p[row, c] * weights[c] for c in range(3)
        )
    expected = total / weights[labels].sum()
    assert float(classify.loss(logits, labels)) == pytest.approx(float(expected), rel=1e-10)


def test_scores_are_one_where_the_answer_is_right(classify):
    logits = np.array([[2.0, 1, 0], [0, 1, 2], [0, 2, 1]], dtype=np.float32)
    labels = np.array([0, 0, 1])
    assert classify.scores(logits, labels).tolist() == [1, 0, 1]
    metrics = classify.metrics(logits, labels)
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert set(metrics) == {"accuracy", "recall", "f1", "auroc"}


def test_answers_name_the_label_and_its_probability(classify):
    answers = classify.answers(np.log(np.array([[0.2, 0.7, 0.1]], dtype=np.float32)))
    assert answers[0]["answer"] == "b"
    assert answers[0]["probability"] == pytest.approx(0.7, rel=1e-5)
    assert classify.truth(2.0) == "c"


def test_balanced_class_weights_weigh_classes_alike():
    filled = Classify.fit(
        {"class_weights": "balanced"}, Target(name="y", kind="category", labels=("a", "b")), np.array([0, 0, 0, 1])
    )
    weights = np.array(filled["class_weights"])
    assert weights * [3, 1] == pytest.approx([2, 2])


def test_regression_scores_average_to_r2_and_metrics_are_in_the_targets_unit():
    targets = np.array([1.0, 3.0, 5.0, 7.0], dtype=np.float32)
    task = Regress(Regress.Config(**Regress.fit({}, Target(name="y", kind="number"), targets)), 4)
    perfect = ((targets - task.config.mean) / task.config.deviation)[:, None].astype(np.float32)
    assert task.scores(perfect, targets).mean() == pytest.approx(1)
    constant = np.zeros((4, 1), dtype=np.float32)
    assert task.scores(constant, targets).mean() == pytest.approx(0, abs=1e-6)
    assert task.metrics(constant, targets)["mae"] == pytest.approx(2)
    assert task.metrics(constant, targets)["rmse"] == pytest.approx(5**0.5)
    assert task.answers(constant)[0]["answer"] == pytest.approx(4)
    assert float(task.loss(torch.zeros(4, 1), torch.from_numpy(targets))) == pytest.approx(1, rel=1e-6)
