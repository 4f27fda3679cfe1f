import torch
from torch import nn

from triptych.models.cost import counted
from triptych.models.flow import batch_input, changed, record, shaken, special_ids, tensors, trace
from triptych.models.tiny_batch import ModelBatch


class Two(nn.Module):
    """A picture and words, which meet in `both`; `still` reads neither."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.read = nn.Linear(6, 4), nn.Embedding(12, 4)
        self.still, self.both = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        words = self.read(ids) + self.still(torch.arange(ids.shape[1]))
        return self.both(self.see(pixels)[:, None] + words * mask[..., None])


IDS = torch.tensor([[1, 7, 7, 3, 4], [2, 7, 7, 5, 6]])
TOKENS = (IDS == 7).long()  # 7 is the placeholder


def batch() -> ModelBatch:
    torch.manual_seed(0)
    inputs = {"pixels": torch.randn(2, 6), "ids": IDS, "mask": torch.ones(2, 5)}
    return ModelBatch(inputs, {"pixels": "image", "ids": "text"}, TOKENS, ("text", "image"))


def test_each_module_moves_with_what_it_depends_on() -> None:
    flow = trace(Two().eval(), batch())
    reach = {call.module: call.reach for call in flow.calls}
    both = {"pixels", "ids"}
    assert reach == {"": both, "read": {"ids"}, "still": set(), "see": {"pixels"}, "both": both}
    assert flow.noise == 0
    assert flow.senses(reach["both"]) == {"image", "text"}
    assert flow.modalities(reach["both"]) == ("image", "text")


def test_a_film_and_a_picture_are_one_sense_unless_they_are_columns() -> None:
    flow = trace(Two().eval(), batch())
    flow.modality = {"pixels": "video", "ids": "image"}
    assert flow.senses({"pixels", "ids"}) == {"image"}
    assert flow.modalities({"pixels", "ids"}) == ("video", "image")
    flow.modality = {"video": "video", "image": "image"}
    assert flow.senses({"video", "image"}) == {"video", "image"}


def test_changed_words_are_valid_and_leave_placeholders_and_special_ids_alone() -> None:
    model = Two()
    model.config = type(
        "C", (), {"to_dict": lambda _: {"text": {"bos_token_id": 1, "eos_token_id": [2]}, "vocab": 4}}
    )()
    assert special_ids(model) == {1, 2}
    new = changed(model, batch(), "ids")["ids"]
    assert torch.equal(new[TOKENS == 1], IDS[TOKENS == 1])
    assert torch.equal(new[:, 0], IDS[:, 0])
    assert (new[:, 3:] != IDS[:, 3:]).all()
    assert not {1, 2, 7} & set(new[:, 3:].flatten().tolist())
    assert new.max() <= IDS.max()
    last = changed(model, batch(), "ids", last=True)["ids"]
    assert (last != IDS).nonzero().tolist() == [[0, 4], [1, 4]]


def test_a_batch_of_one_word_can_still_be_changed() -> None:
    same = ModelBatch({"ids": torch.zeros(1, 3, dtype=torch.long)}, {"ids": "text"}, None, ())
    assert (changed(Two(), same, "ids")["ids"] != 0).all()


def test_the_batch_itself_is_never_changed() -> None:
    given = batch()
    before = {name: value.clone() for name, value in given.inputs.items()}
    trace(Two().eval(), given)
    assert all(torch.equal(before[name], given.inputs[name]) for name in before)


def test_an_input_inside_a_dictionary_goes_by_its_own_key() -> None:
    nested = ModelBatch({"inputs": {"word": IDS}, "mask": TOKENS}, {"word": "text"}, None, ())
    assert torch.equal(batch_input(nested, "word"), IDS)
    assert not torch.equal(changed(Two(), nested, "word")["inputs"]["word"], IDS)


def test_one_changed_number_in_a_million_is_seen() -> None:
    class Big(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.softmax(dim=1)

    one = torch.zeros(1, 1_000_003)
    other = one.clone()
    other[0, 500_000] = 3.0
    calls, again = record(Big(), {"x": one}), record(Big(), {"x": other})
    assert calls[0].outputs[0].distance(again[0].outputs[0]) > 0
    assert calls[0].outputs[0].distance(record(Big(), {"x": one})[0].outputs[0]) == 0


def test_a_model_that_draws_numbers_or_drops_units_is_still() -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.drop(x) + torch.randn_like(x)

    model = Random().train()
    flow = trace(model, ModelBatch({"x": torch.ones(2, 3)}, {"x": "image"}, None, ()))
    assert flow.noise == 0
    assert model.training


def test_shaken_parameters_come_back_to_the_bit() -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    before = weight.detach().clone()
    with shaken([weight]):
        assert (weight != before).all()
    assert torch.equal(weight, before)


def test_multiply_adds_are_those_of_the_formulas() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm = nn.Conv1d(3, 8, 5, bias=False), nn.LSTM(8, 6, batch_first=True)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, _ = self.lstm(self.conv(x).mT)
            return self.attention(y, y, y, need_weights=False)[0]

    macs = trace(Layers().eval(), ModelBatch({"x": torch.randn(2, 3, 14)}, {"x": "audio"}, None, ())).macs
    steps = 10
    assert macs["conv"] == 2 * steps * 8 * 3 * 5
    assert macs["lstm"] == 2 * steps * 4 * 6 * (8 + 6)
    assert macs["attention"] == 2 * (steps * 4 * 6 * 6 + 2 * steps * steps * 6)
    with counted(macs, lambda: "elsewhere"):
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert macs["elsewhere"] == 24


def test_tensors_are_found_in_any_nest() -> None:
    a, b, c = torch.zeros(1), torch.ones(1), torch.ones(2)
    assert [t is u for t, u in zip(tensors(({"x": a}, [b, (c, "no")], None)), (a, b, c), strict=True)] == [True] * 3
