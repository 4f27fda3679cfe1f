"""From a decoder's steps to a text: greedy, beams, or sampling.

Id 0 begins a text and ends it; id 1 stands for what the vocabulary lacks, and is never written.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.errors import InputError

State = tuple[Tensor, ...]
Step = Callable[[Int[Tensor, " rows"], Int[Tensor, " rows"], State], tuple[Float[Tensor, "rows vocabulary"], State]]

END, UNKNOWN = 0, 1


class Sampler:
    """Draws tokens from softmax(logits / temperature), cut to the likeliest; the same seed and calls draw the same.

    Args:
        temperature: above 1 flatter than the model's own, below 1 steeper.
        top_k: so many likeliest tokens may be drawn; 0 for all.
        top_p: the fewest likeliest tokens that have this share of the probability may be drawn.
        seed: of the draws.

    Raises:
        InputError: a setting that leaves nothing to draw from.

    Source: Fan et al., Hierarchical Neural Story Generation, ACL 2018, for top_k; Holtzman et al., The Curious Case of Neural Text
    Degeneration, ICLR 2020, for top_p.
    """

    def __init__(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> None:
        if not (temperature > 0 and top_k >= 0 and 0 < top_p <= 1):
            raise InputError(
                f"No word can be drawn with temperature {temperature:g}, top_k {top_k} and top_p {top_p:g}.",
                "Give a temperature above 0, top_k of 0 or more, and top_p above 0 and at most 1.",
            )
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits: Float[Tensor, "rows vocabulary"]) -> Int[Tensor, " rows"]:
        """A token for each row."""
        ranked, order = (logits / self.temperature).sort(descending=True, stable=True)
        chances = ranked.softmax(-1)
        before = chances.cumsum(-1) - chances  # of likelier tokens
        cut = before >= self.top_p
        if self.top_k:
            cut[:, self.top_k :] = True
        drawn = torch.multinomial(chances.masked_fill(cut, 0.0), 1, generator=self.generator)
        return order.gather(1, drawn).squeeze(1)


def write(
    step: Step, state: State, length: int, *, beams: int = 1, sampler: Sampler | None = None
) -> Int[Tensor, "rows length"]:
    """One text a row, 0 after its end.

    Args:
        step: (ids, place, state) -> (logits, state).
        state: of the first step, batch axis first.
        length: tokens at most.
        beams: kept at every step; 1 is greedy.
        sampler: draws each token, one beam only.
    """
    if beams > 1 and sampler is None:
        return _beam_search(step, state, length, beams)
    rows = len(state[0])
    ids, ended = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.bool)
    written = torch.zeros(rows, length, dtype=torch.int64)
    for place in range(length):
        logits, state = step(ids, torch.full((rows,), place), state)
        logits[:, UNKNOWN] = -torch.inf
        ids = logits.argmax(-1) if sampler is None else sampler(logits)
        ids = ids.masked_fill(ended, END)
        written[:, place] = ids
        ended |= ids == END
        if ended.all():
            break
    return written


def _beam_search(step: Step, state: State, length: int, beams: int) -> Int[Tensor, "rows length"]:
    """The text of highest mean log-probability a token among those that the beams ended in.

    Source: Graves, Sequence Transduction with Recurrent Neural Networks, 2012; the mean as in Wu et al., Google's Neural Machine
    Translation System, 2016, equation 14 with alpha 1.
    """
    rows = len(state[0])
    state = tuple(one.repeat_interleave(beams, dim=0) for one in state)
    written = torch.zeros(rows, beams, length, dtype=torch.int64)
    ids = torch.zeros(rows, beams, dtype=torch.int64)
    total = torch.full((rows, beams), -torch.inf)
    total[:, 0] = 0.0  # all beams begin alike: only one of them may be followed
    ended = torch.zeros(rows, beams, dtype=torch.bool)
    count = torch.zeros(rows, beams)
    for place in range(length):
        logits, state = step(ids.flatten(), torch.full((rows * beams,), place), state)
        logits[:, UNKNOWN] = -torch.inf
        chances = logits.log_softmax(-1).unflatten(0, (rows, beams))
        over = torch.full_like(chances, -torch.inf)
        over[..., END] = 0.0  # an ended text goes on as itself
        chances = torch.where(ended.unsqueeze(-1), over, chances)
        lengths = count + (~ended)
        ranked = ((total.unsqueeze(-1) + chances) / lengths.clamp(min=1).unsqueeze(-1)).flatten(1)
        _, chosen = ranked.topk(beams, dim=1)
        parent, ids = chosen // chances.shape[-1], chosen % chances.shape[-1]
        total = (total.unsqueeze(-1) + chances).flatten(1).gather(1, chosen)
        count, ended = lengths.gather(1, parent), ended.gather(1, parent) | (ids == END)
        written = written.gather(1, parent.unsqueeze(-1).expand(-1, -1, length))
        written[..., place] = ids
        order = (parent + torch.arange(rows).unsqueeze(1) * beams).flatten()
        state = tuple(one.index_select(0, order) for one in state)
        if ended.all():
            break
    best = (total / count.clamp(min=1)).argmax(1)
    return written[torch.arange(rows), best]
