"""What writes a sequence token by token while it looks at the tokens of the encoders: one file a decoder.

A decoder is a module with a ``Config``, ``start(memory, mask) -> state``, ``step(ids, place, state) -> (logits, state)`` for one
token a row, and ``forward(memory, mask, ids) -> logits`` for whole texts at once, which says the same as step after step. A state is
a tuple of tensors, batch axis first, so that engines carry it from one step to the next.
"""

from triptych.decoders.rnn import RNNDecoder
from triptych.decoders.transformer import TransformerDecoder

__all__ = ["RNNDecoder", "TransformerDecoder"]
