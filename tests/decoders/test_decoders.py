"""Every decoder: step after step says what whole texts say, padding is not looked at, its widths can shrink."""

import pytest
import torch

from triptych.compress.prune.width import shrink
from triptych.decoders.rnn import RNNDecoder
from triptych.decoders.transformer import TransformerDecoder

VOCABULARY, LENGTH, WIDTH = 11, 6, 8
DECODERS = {
    "rnn": lambda: RNNDecoder(RNNDecoder.Config(embedding=5, hidden=6, attention=4), WIDTH, VOCABULARY, LENGTH),
    "transformer": lambda: TransformerDecoder(
        TransformerDecoder.Config(heads=2, layers=2, feedforward=12), WIDTH, VOCABULARY, LENGTH
    ),
}


@pytest.fixture(params=DECODERS)
def decoder(request):
    torch.manual_seed(0)
    return DECODERS[request.param]().eval()


def memory_of(rows=3, places=5):
    mask = torch.ones(rows, places, dtype=torch.bool)
    mask[1, 2:] = False
    return torch.randn(rows, places, WIDTH), mask


def stepped(decoder, memory, mask, ids):
    state, logits = decoder.start(memory, mask), []
    for place in range(ids.shape[1]):
        said, state = decoder.step(ids[:, place], torch.full((len(ids),), place), state)
        logits.append(said)
    return torch.stack(logits, dim=1)


@torch.no_grad()
def test_steps_say_what_whole_texts_say(decoder):
    memory, mask = memory_of()
    ids = torch.randint(0, VOCABULARY, (3, LENGTH))
    torch.testing.assert_close(stepped(decoder, memory, mask, ids), decoder(memory, mask, ids))


@torch.no_grad()
def test_neither_padding_nor_later_tokens_are_looked_at(decoder):
    memory, mask = memory_of()
    ids = torch.randint(0, VOCABULARY, (3, LENGTH))
    before = decoder(memory, mask, ids)
    memory[1, 2:] += 100
    torch.testing.assert_close(decoder(memory, mask, ids), before)
    ids[:, 4:] = 1
    torch.testing.assert_close(decoder(memory, mask, ids)[:, :4], before[:, :4])
    memory[0] += 1
    assert not torch.allclose(decoder(memory, mask, ids)[0, 0], before[0, 0])


@torch.no_grad()
def test_a_narrowed_decoder_still_steps_as_it_speaks(decoder):
    for width in decoder.widths():
        shrink(decoder, width, torch.arange(width.units - 1))
    memory, mask = memory_of()
    ids = torch.randint(0, VOCABULARY, (3, LENGTH))
    torch.testing.assert_close(stepped(decoder, memory, mask, ids), decoder(memory, mask, ids))


@torch.no_grad()
def test_units_that_give_nothing_can_go_without_a_trace(decoder):
    memory, mask = memory_of()
    ids = torch.randint(0, VOCABULARY, (3, LENGTH))
    for width in decoder.widths():
        for member in width.consumers:  # nobody reads the last unit
            weight = decoder.get_parameter(member.parameter)
            span, block = member.span, width.units * member.span
            for repeat in range(member.repeat):
                start = repeat * block + block - span
                weight.narrow(member.axis, start, span).zero_()
        before = decoder(memory, mask, ids)
        shrink(decoder, width, torch.arange(width.units - 1))
        torch.testing.assert_close(decoder(memory, mask, ids), before)
