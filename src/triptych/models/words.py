"""The text inputs of any model: random ids, runs of placeholders where other modalities go in, and the codes that say which is which."""

import re
import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from triptych.models.config_keys import ConfigKeys

_TEXT = re.compile(r"(\w+_)?(input_ids|text_ids|word_ids)|ids|tokens|texts?|words")
_KINDS = {"text": 0, "image": 1, "video": 2, "audio": 3}  # of `mm_token_type_ids`, as processors write them
_WORDS = 8  # ids of plain text a row


def is_text(name: str) -> bool:
    """Whether an input of that name holds word ids."""
    return bool(_TEXT.fullmatch(name))


class Words:
    """Builds the text inputs that a forward names.

    Args:
        model: whose word embeddings bound the ids.
        keys: of its config.
        names: all inputs of its forward.
        rows: samples in the batch.
        seed: of the ids.
    """

    def __init__(self, model: nn.Module, keys: ConfigKeys, names: Sequence[str], rows: int, seed: int) -> None:
        self.keys, self.rows, self.seed = keys, rows, seed
        self.names = [name for name in names if is_text(name)]
        self.all_names = names
        plain = [name for name in self.names if "decoder" not in name]
        self.decoders = [name for name in self.names if "decoder" in name]
        # The sequence that the language model reads: a text encoder's where it has one, else the decoder's.
        self.language = next(iter((*sorted(plain, key=len), *self.decoders)), None)
        self.placeholders = keys.placeholders() if plain else {}
        self.special = keys.special_ids() | set(self.placeholders.values())
        self.embedding = _embedding(model)
        self.needs_decoder = any(value is True for value in keys.find("is_encoder_decoder"))

    @property
    def width(self) -> int:
        """Of the word embeddings; 0 where there are none."""
        return 0 if self.embedding is None else int(self.embedding.shape[-1])

    def variants(self) -> list[tuple[bool, bool]]:
        """Which text inputs to try, as (the decoder's ids too, masks too): with masks first, as processors give them."""
        decoder = [False] if not self.decoders else [True] if self.needs_decoder else [False, True]
        masks = [True, False] if self.names else [False]
        return [(d, m) for m in masks for d in decoder]

    def inputs(self, counts: Mapping[str, int], *, decoder: bool, masks: bool) -> dict[str, Tensor]:
        """The text inputs, with `counts` placeholders a row of each modality between the words."""
        found: dict[str, Tensor] = {}
        for name in self.names:
            if name not in self.decoders or decoder:
                found[name] = self._ids(name, counts if name == self.language else {})
        if "mm_token_type_ids" in self.all_names and self.language in found:
            found["mm_token_type_ids"] = self._codes(found[self.language], _KINDS)
        if masks:
            for name in list(found):
                mask = re.sub(r"(input_ids|text_ids|ids|tokens|texts?|words)$", "attention_mask", name)
                if mask in self.all_names:
                    found[mask] = torch.ones_like(found[name])
        return found

    def tokens(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor | None, tuple[str, ...]]:
        """Per position of the language sequence [rows, tokens] the index of its modality in the names beside it."""
        name = self.language if self.language in inputs else next((n for n in self.decoders if n in inputs), None)
        if name is None:
            return None, ()
        present = [m for m, id_ in self.placeholders.items() if (inputs[name] == id_).any()]
        names = ("text", *present)
        return self._codes(inputs[name], {modality: i for i, modality in enumerate(names)}), names

    def _codes(self, ids: Tensor, numbers: Mapping[str, int]) -> Tensor:
        codes = torch.full_like(ids, numbers["text"])
        for modality, placeholder in self.placeholders.items():
            if modality in numbers:
                codes[ids == placeholder] = numbers[modality]
        return codes

    def _ids(self, name: str, counts: Mapping[str, int]) -> Tensor:
        """[rows, tokens]: half of the words, the placeholders between the ids that open and close them, the other half, the end."""
        vocabulary = self._vocabulary(name)
        plain = torch.ones(vocabulary, dtype=torch.bool)
        plain[[i for i in self.special if 0 <= i < vocabulary]] = False
        ids = plain.nonzero().flatten() if plain.any() else torch.arange(vocabulary)
        longest = self.keys.numbers("max_position_embeddings", "max_target_positions", "n_positions", modality="text")
        n = max(2, min(_WORDS, longest[0] - 2 if longest else _WORDS))
        generator = torch.Generator().manual_seed(self.seed ^ zlib.crc32(name.encode()))
        words = ids[torch.randint(len(ids), (self.rows, n), generator=generator)]
        runs: list[int] = []
        for modality, count in counts.items():
            opening, closing = self.keys.brackets(modality)
            run = [*opening, *[self.placeholders[modality]] * count, *closing]
            runs += [id_ for id_ in run if id_ < vocabulary or id_ == self.placeholders[modality]]
        first, last = ("decoder_start_token_id", "") if name in self.decoders else ("", "eos_token_id")
        parts = [
            self._one(first, vocabulary),
            words[:, : n // 2],
            torch.tensor(runs),
            words[:, n // 2 :],
            self._one(last, vocabulary),
        ]
        return torch.cat([part.long().expand(self.rows, -1) for part in parts], dim=1)

    def _one(self, key: str, vocabulary: int) -> Tensor:
        """The id of that key, if there is one: what a decoder starts with, or the end that some text towers pool at."""
        found = (
            [n for n in self.keys.find(key, modality="text") if isinstance(n, int) and 0 <= n < vocabulary]
            if key
            else []
        )
        return torch.tensor(found[:1])

    def _vocabulary(self, name: str) -> int:
        """Ids below it are known: to the part the input is named after, else to the word embeddings, else to any part."""
        prefix = re.sub(r"_?(input_ids|text_ids|word_ids)$", "", name)
        own = [key.value for key in self.keys.keys if prefix and prefix in key.path and key.name == "vocab_size"]
        if own:
            return int(own[0])
        sizes = self.keys.numbers("vocab_size", modality="text")
        if self.embedding is not None:
            return min([int(self.embedding.shape[0]), *sizes[:1]])
        return min(sizes or [2])


def _embedding(model: nn.Module) -> Tensor | None:
    """The word embeddings: those the model names, else its largest table of them."""
    try:
        named = getattr(model, "get_input_embeddings", lambda: None)()
    except (NotImplementedError, AttributeError):
        named = None
    if isinstance(named, nn.Embedding):
        return named.weight
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    return max(tables, key=len, default=None)
