"""Greedy and beam search against a language whose every text can be listed."""

from itertools import product

import pytest
import torch

from triptych.decoders.search import Sampler, write
from triptych.errors import InputError

VOCABULARY, LENGTH = 5, 4


def language(seed):
    """A step whose logits depend on everything written so far, which is its state."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn((VOCABULARY + 1,) * LENGTH + (VOCABULARY,), generator=generator) * 2

    def step(ids, place, state):
        (written,) = state
        written = written.clone()
        if place[0] > 0:
            written[:, place[0] - 1] = ids + 1
        return table[tuple(written.T)].clone(), (written,)

    return step, (torch.zeros(1, LENGTH, dtype=torch.int64),)


def likelihood(step, state, text):
    """Mean log-probability a token, the end included; id 1 is never written."""
    total, ids = 0.0, torch.zeros(1, dtype=torch.int64)
    for place, token in enumerate(text):
        logits, state = step(ids, torch.tensor([place]), state)
        logits[:, 1] = -torch.inf
        total += float(logits.log_softmax(-1)[0, token])
        ids = torch.tensor([token])
    return total / len(text)


def every_text():
    for length in range(1, LENGTH + 1):
        for text in product((0, 2, 3, 4), repeat=length):
            ended = 0 not in text[:-1] and (text[-1] == 0 or length == LENGTH)
            if ended:
                yield text


def padded(text):
    return [*text, *[0] * (LENGTH - len(text))]


def test_enough_beams_find_the_likeliest_text():
    for seed in range(10):
        step, state = language(seed)
        best = max(every_text(), key=lambda text: likelihood(step, state, text))
        assert write(step, state, LENGTH, beams=400)[0].tolist() == padded(best)


def test_greedy_takes_the_likeliest_token_each_time():
    step, state = language(3)
    ids, text = torch.zeros(1, dtype=torch.int64), []
    for place in range(LENGTH):
        logits, state = step(ids, torch.tensor([place]), state)
        ids = torch.tensor([max((0, 2, 3, 4), key=lambda token: float(logits[0, token]))])
        text.append(int(ids))
        if text[-1] == 0:
            break
    assert write(*language(3), LENGTH)[0].tolist() == padded(text)


def test_cold_draws_are_greedy_and_warm_ones_vary():
    step, state = language(0)
    many = (state[0].repeat(50, 1),)
    cold = write(step, many, LENGTH, sampler=Sampler(temperature=1e-4))
    assert torch.equal(cold, write(step, many, LENGTH))
    warm, again, other = (write(step, many, LENGTH, sampler=Sampler(seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(warm, again)
    assert not torch.equal(warm, other)
    assert len({tuple(text) for text in warm.tolist()}) > 5
    assert not (warm == 1).any()
    ended = (warm == 0).int().cummax(1).values.bool()
    assert (warm[ended] == 0).all()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.5}, [0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.65}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1e-6}, [0.0, 1.0, 0.0, 0.0]),
        ({"top_k": 3, "top_p": 0.65}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_draws_are_distributed_as_asked(settings, expected):
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().expand(20_000, 4)
    drawn = torch.bincount(Sampler(**settings)(logits), minlength=4) / len(logits)
    assert torch.allclose(drawn, torch.tensor(expected), atol=0.015)
    assert not drawn[torch.tensor(expected) == 0].any()


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_draws_from_nothing_are_refused(settings):
    with pytest.raises(InputError, match=r"No word can be drawn with temperature .* Give a temperature above 0"):
        Sampler(**settings)
