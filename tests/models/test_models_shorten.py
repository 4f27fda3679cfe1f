"""Shortened samples keep what other modalities need, and are left alone where cutting might break them."""

import torch

from triptych.models.shorten import KEPT, shortened
from triptych.models.tiny_batch import ModelBatch

NAMES = ("text", "image")


def sample(length: int, picture: slice | None = None, **more: torch.Tensor) -> ModelBatch:
    """Ids that count upwards, so that what is left tells where it stood."""
    ids, tokens = torch.arange(length)[None], torch.zeros(1, length, dtype=torch.long)
    if picture is not None:
        tokens[:, picture] = NAMES.index("image")
    return ModelBatch({"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}, {}, tokens, NAMES)


def test_the_middle_of_long_runs_of_words_goes() -> None:
    batch = sample(100, slice(40, 50), position_ids=torch.arange(300).reshape(3, 1, 100))
    short = shortened(batch)
    kept = [*range(KEPT), *range(40 - KEPT, 50 + KEPT), *range(100 - KEPT, 100)]
    assert short.inputs["input_ids"].tolist() == [kept]
    assert short.inputs["attention_mask"].shape == short.tokens.shape == (1, len(kept))
    assert short.inputs["position_ids"][2, 0].tolist() == [200 + place for place in kept]
    assert int((short.tokens == NAMES.index("image")).sum()) == 10


def test_padding_counts_as_words_and_rows_are_cut_alike() -> None:
    tokens = torch.zeros(2, 60, dtype=torch.long)
    tokens[0, 50:] = -1
    tokens[1, 20:24] = 1
    short = shortened(ModelBatch({"input_ids": torch.arange(120).reshape(2, 60)}, {}, tokens, NAMES))
    kept = [*range(KEPT), *range(20 - KEPT, 24 + KEPT), *range(60 - KEPT, 60)]
    assert short.inputs["input_ids"].tolist() == [kept, [60 + place for place in kept]]


def test_what_may_not_be_cut_stays() -> None:
    few = shortened(sample(2 * KEPT))
    assert few.inputs["input_ids"].shape == (1, 2 * KEPT)
    masked = sample(50, mask=torch.ones(1, 1, 50, 50))
    assert shortened(masked) is masked
    wordless = ModelBatch({"pixel_values": torch.ones(1, 3, 8, 8)}, {}, None, ())
    assert shortened(wordless) is wordless
