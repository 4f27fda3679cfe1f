"""Agreement of two models without labels."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from triptych.errors import NumericsError
from triptych.evaluate.agreement import answers, compare, conditions
from triptych.models.tiny_batch import ModelBatch


def batches(count: int = 12) -> list[ModelBatch]:
    draw = torch.Generator().manual_seed(0)
    return [
        ModelBatch(
            {
                "pixel_values": torch.randn(1, 3, 4, 4, generator=draw),
                "input_ids": torch.randint(9, (1, 5), generator=draw),
            },
            {"pixel_values": "image", "input_ids": "text"},
            None,
            (),
        )
        for _ in range(count)
    ]


WEIGHT = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))


def model(noise: float = 0.0, image: float = 1.0) -> Any:
    def run(inputs: dict[str, Tensor]) -> Any:
        seen = inputs["pixel_values"].mean((2, 3)) * image
        draw = torch.Generator().manual_seed(int(inputs["input_ids"].sum()))
        logits = (seen @ WEIGHT)[:, None] + torch.nn.functional.one_hot(inputs["input_ids"] % 7, 7)
        return {"logits": logits + noise * torch.randn(logits.shape, generator=draw)}

    return run


def test_a_model_agrees_with_itself() -> None:
    data = batches()
    asked = conditions(data)
    assert asked == ["all", "without:image"]
    same = answers(model(), data, asked)
    found = compare(same, same)
    assert found.distribution
    assert np.allclose(found.divergence, 0, atol=1e-12)
    assert found.whole().low == 1
    assert found.kept["image"].point == pytest.approx(1)


def test_divergence_is_the_mean_kl_of_the_positions() -> None:
    data = batches()
    before, after = (answers(model(noise), data, ["all"]) for noise in (0.0, 0.5))
    found = compare(before, after)
    for number, batch in enumerate(data):
        p = model()(batch.inputs)["logits"].double().softmax(-1)
        q = model(0.5)(batch.inputs)["logits"].double().softmax(-1)
        assert found.divergence[number] == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)


def test_a_modality_that_died_shows_while_the_answers_still_agree() -> None:
    data = batches(40)
    before, after = (answers(model(image=image), data, conditions(data)) for image in (1.0, 0.1))
    found = compare(before, after)
    assert found.unchanged.mean() > 0.9
    assert found.kept["image"].high < 0.2


def test_vectors_are_compared_by_their_energy() -> None:
    data = batches()

    def embed(scale: float) -> Any:
        return lambda inputs: SimpleNamespace(items={"image_embeds": scale * inputs["pixel_values"].mean((2, 3))}.items)

    found = compare(answers(embed(1.0), data, ["all"]), answers(embed(0.9), data, ["all"]))
    assert not found.distribution
    assert np.allclose(found.divergence, 0.01, rtol=1e-3)


def test_nan_is_named() -> None:
    data = batches()
    data[3].inputs["pixel_values"][:] = torch.nan
    with pytest.raises(NumericsError, match=r"sample 3 \(all\)"):
        answers(model(), data, ["all"])
