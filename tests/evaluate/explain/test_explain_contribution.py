"""Who gets how much credit, in models whose answers are known."""

import numpy as np
import pytest
import torch
from torch import nn

from evaluate.explain.known import ENCODERS, build, draw
from triptych.data.batch import Batch
from triptych.errors import InputError, LimitError
from triptych.evaluate.explain.contribution import contribution, shapley
from triptych.evaluate.explain.look import look
from triptych.evaluate.explain.subject import Subject, fuse
from triptych.models.fusion_model import FusionConfig, FusionModel
from triptych.structure import Encoded
from triptych.tasks import Regress


def test_those_who_only_help_together_share_alike():
    both = np.array([[0.0, 0.0, 0.0, 1.0]])
    assert shapley(both).tolist() == [[0.5, 0.5]]
    first = np.array([[0.0, 1.0, 0.0, 1.0]])
    assert shapley(first).tolist() == [[1.0, 0.0]]


def test_an_absent_field_gives_nothing():
    batch, _, _ = draw(4, seed=0)
    subject = Subject.of(build(*ENCODERS["cnn"]), batch.without("text"))
    found = contribution(subject)
    assert found.shapley[:, 1].tolist() == [0] * 4
    assert found.without[:, 1] == pytest.approx(found.all)


def test_the_vectors_give_the_models_own_outputs():
    batch, _, _ = draw(5, seed=0)
    batch.presence[1, 0] = False
    model = build(*ENCODERS["cnn"])
    subject = Subject.of(model, batch)
    expected = model(batch.inputs, batch.presence).logits
    torch.testing.assert_close(fuse(model, subject.vectors, batch.presence), expected)
    own = subject.through("text")(batch.inputs["text"], torch.zeros_like(subject.vectors), batch.presence)
    alone = batch.presence & torch.tensor([False, True, False])
    torch.testing.assert_close(
        subject.through("text")(batch.inputs["text"], torch.zeros_like(subject.vectors), alone),
        model(batch.inputs, alone).logits,
    )
    assert not torch.allclose(own, expected)


def test_without_labels_the_likeliest_class_is_asked_about():
    batch, _, _ = draw(5, seed=0)
    model = build(*ENCODERS["cnn"])
    batch.labels = None
    assert torch.equal(Subject.of(model, batch).targets, model(batch.inputs).logits.argmax(1))


def test_a_number_is_explained_in_its_own_unit():
    batch, _, _ = draw(5, seed=0)
    model = build(*ENCODERS["cnn"])
    model.task = Regress(Regress.Config(mean=100.0, deviation=10.0), model.fusion.out_width).eval()
    batch.labels = torch.randn(5)
    subject = Subject.of(model, batch)
    found = contribution(subject)
    said = [answer["answer"] for answer in model.task.answers(model(batch.inputs).logits.detach().numpy())]
    assert found.all == pytest.approx(said)
    assert subject.targets.tolist() == [0] * 5


def test_what_cannot_be_explained_is_said():
    batch, _, _ = draw(2, seed=0)
    model = build(*ENCODERS["cnn"])
    model.task = nn.Identity()
    with pytest.raises(InputError, match=r"Answers of the task Identity cannot be explained yet. Explain a model that"):
        Subject.of(model, batch)
    many = FusionConfig(
        inputs={str(i): {"features": {"kind": "number", "shape": (1,)}, "encoder": {"name": "mlp"}} for i in range(13)},
        fusion={"name": "mean"},
        task={"name": "regress"},
    )
    numbers = Batch(
        {str(i): torch.zeros(1, 1) for i in range(13)}, torch.ones(1, 13, dtype=torch.bool), None, torch.arange(1)
    )
    with pytest.raises(LimitError, match=r"The model reads 13 fields; shares are exact .* the limit is 12"):
        contribution(Subject.of(FusionModel(many).eval(), numbers))


class Letters(nn.Module):
    """Reads tokens without an embedding."""

    def forward(self, x):
        tokens = torch.stack([x.float()] * 16, dim=-1)
        return Encoded(tokens.mean(1), tokens, x != 0)


def test_a_text_encoder_without_an_embedding_has_no_attributions():
    batch, _, _ = draw(2, seed=0)
    model = build(*ENCODERS["cnn"])
    model.encoders["text"] = Letters()
    found = look(Subject.of(model, batch), "text")
    assert found.tokens is None
    assert found.attention is None
