"""Every way of seeing why, on tasks in which the truth is known: it must point at what decides and at nothing else."""

import pytest
import torch

from evaluate.explain.known import PATCH, SIDE, draw
from triptych.evaluate.explain.attributions import token_attributions
from triptych.evaluate.explain.contribution import contribution
from triptych.evaluate.explain.gradcam import blanked, enlarged, gradcam
from triptych.evaluate.explain.grids import find_grid
from triptych.evaluate.explain.subject import Subject

ROWS = 64


@pytest.fixture(scope="module")
def drawn():
    return draw(ROWS, seed=1_000)


@pytest.fixture(scope="module")
def subject(trained, drawn):
    batch, _, _ = drawn
    right = trained(batch.inputs, batch.presence).logits.argmax(1) == batch.labels
    assert right.float().mean() > 0.9
    return Subject.of(trained, batch)


def found_at(heat, corners, slack=4):
    """The share of maps whose brightest place lies on the patch, give or take half a cell."""
    brightest = enlarged(heat, (SIDE, SIDE)).flatten(1).argmax(1)
    places = torch.stack([brightest // SIDE, brightest % SIDE], dim=1)
    return ((places >= corners - slack) & (places < corners + PATCH + slack)).all(1).float().mean()


def test_the_map_peaks_on_the_patch_that_decides(subject, drawn):
    _, corners, _ = drawn
    grid = find_grid(subject, "picture")
    assert (grid.rows, grid.columns) == (8, 8)
    assert found_at(gradcam(subject, "picture", grid), corners) >= 0.9
    assert found_at(gradcam(subject, "picture", grid, gradients="mean"), corners) >= 0.8
    assert found_at(torch.rand(ROWS, 8, 8), corners) < 0.4


def test_blanking_what_the_map_shows_costs_more_than_blanking_anything(subject):
    sure = subject.amounts(
        subject.through("picture")(subject.batch.inputs["picture"], subject.vectors, subject.batch.presence)
    )
    heat = gradcam(subject, "picture", find_grid(subject, "picture"))
    shown, random = (blanked(subject, "picture", maps, share=1 / 8) for maps in (heat, torch.rand(ROWS, 8, 8)))
    assert sure.mean() - shown.mean() > 3 * (sure.mean() - random.mean()) > 0


def test_the_word_that_decides_has_the_largest_attribution(subject, drawn):
    batch, _, words = drawn
    tokens = token_attributions(subject, "text")
    assert (tokens.argmax(1) == words).float().mean() >= 0.95
    assert not tokens[batch.inputs["text"] == 0].any()


def test_what_decides_shares_the_credit_and_noise_gets_none(subject):
    found = contribution(subject)
    picture, text, number = found.shapley.mean(0)
    assert picture > 0.25
    assert text > 0.25
    assert abs(number) < 0.03
    assert found.shapley.sum(1) == pytest.approx(found.all - found.none)
    assert found.none.mean() == pytest.approx(0.25, abs=0.1)
    assert found.without[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    assert found.without[:, 2] == pytest.approx(found.all, abs=0.2)
