import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.clean import Cleaning, clean, stop_words
from triptych.data.text import TextFeatures
from triptych.data.tokenizer import PADDING, UNKNOWN, load_tokenizer, train_tokenizer
from triptych.errors import InputError, LimitError

TEXTS = [
    "the cat sat on the mat.",
    "Das Mädchen: null Ahnung!",
    "七 words in 三 scripts",
    "नौ आठ, नौ आठ",
    "the the the",
]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(ANY_TEXT)
@settings(max_examples=150, deadline=None)
def test_subwords_give_back_any_text(text):
    tokenizer = subwords()
    assert tokenizer.decode(tokenizer.encode(text)) == text


_made = {}


def subwords():
    if not _made:
        _made["one"] = train_tokenizer("subword", TEXTS * 5, 400)
    return _made["one"]


@given(ANY_TEXT)
@settings(max_examples=150, deadline=None)
def test_characters_give_back_any_text_they_were_trained_on(text):
    tokenizer = train_tokenizer("character", [text], 1000)
    ids = tokenizer.encode(text)
    assert tokenizer.decode([*ids, PADDING]) == text
    assert all(UNKNOWN < i < tokenizer.vocabulary for i in ids)


@given(st.lists(st.text(st.characters(categories=["Ll", "Lu", "Mn", "Nd"]), min_size=1, max_size=8), max_size=8))
@settings(max_examples=150, deadline=None)
def test_words_give_back_words_joined_by_spaces(words):
    text = " ".join(word for word in words if not word.isspace())
    tokenizer = train_tokenizer("word", [text], 1000)
    assert tokenizer.decode(tokenizer.encode(text)) == " ".join(text.split())


@given(
    ANY_TEXT,
    st.builds(
        Cleaning,
        lowercase=st.booleans(),
        compatible=st.booleans(),
        tags=st.booleans(),
        addresses=st.booleans(),
        accents=st.booleans(),
        punctuation=st.booleans(),
        stop_words=st.sampled_from([(), ("en",), ("de", "fr")]),
    ),
)
@settings(max_examples=300, deadline=None)
def test_cleaning_twice_is_cleaning_once(text, how):
    once = clean(text, how)
    assert clean(once, how) == once
    assert once == " ".join(once.split())
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(
    ("how", "text", "cleaned"),
    [
        ({}, "  The\tCAFÉ\n", "the café"),
        ({"lowercase": False}, "The", "The"),
        ({"accents": True}, "Ångström café", "angstrom cafe"),
        ({}, "\uff26\uff35LL ﬁne", "full fine"),
        ({"compatible": False}, "ﬁne", "ﬁne"),
        ({"tags": True}, "<p>one<br/>two</p> 1<2", "one two 1<2"),
        ({"addresses": True}, "see https://example.org/a?b and www.x.org now", "see and now"),
        ({"punctuation": True}, "it's, well - 5% off!", "it s well 5 off"),
        ({"stop_words": ("en",)}, "The cat is not on the mat", "cat not mat"),
        ({"stop_words": ("de",)}, "Das ist nicht der Hund", "nicht hund"),
        ({}, "a\x00b\x07", "a b"),
    ],
)
def test_cleaning(how, text, cleaned):
    assert clean(text, Cleaning(**how)) == cleaned


def test_stop_words_are_words_and_other_languages_are_refused():
    assert {"on", "the", "for"} <= stop_words("en")
    assert "no" in stop_words("pt")
    assert "not" not in stop_words("en")
    with pytest.raises(InputError, match=r"There are no stop words for 'xx'\. Choose from: de, en, es, fr, it, nl, pt"):
        stop_words("xx")


def test_words_split_at_punctuation_and_keep_vowel_signs():
    tokenizer = train_tokenizer("word", TEXTS, 100)
    assert tokenizer.tokens[0] == "the"
    assert tokenizer.decode(tokenizer.encode("नौ,cat")) == "नौ , cat"
    assert tokenizer.encode("dog the") == [UNKNOWN, 2]
    assert tokenizer.decode([UNKNOWN, 2]) == "\ufffd the"


def test_the_vocabulary_is_capped_and_ties_are_settled_by_code_point():
    assert train_tokenizer("word", ["b a c a"], 4).tokens == ("a", "b")
    assert train_tokenizer("subword", TEXTS, 300).vocabulary <= 300


@pytest.mark.parametrize("level", ["word", "character", "subword"])
def test_state_brings_a_tokenizer_back(level):
    tokenizer = train_tokenizer(level, TEXTS, 300)
    again = load_tokenizer(tokenizer.state())
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert again.state() == tokenizer.state() == train_tokenizer(level, TEXTS, 300).state()


def test_a_special_token_in_a_text_is_text():
    tokenizer = subwords()
    ids = tokenizer.encode("a <pad> b")
    assert PADDING not in ids
    assert load_tokenizer(tokenizer.state()).decode(ids) == "a <pad> b"


def fitted(texts=TEXTS, **how) -> TextFeatures:
    return TextFeatures(TextFeatures.Config(**how)).fit(texts)


def load(features: TextFeatures, cell) -> list[int]:
    return features.load(cell, Path(), "rows.csv, line 2, column caption").tolist()


def test_texts_are_padded_and_cut():
    features = fitted(level="word", length=4)
    assert load(features, "the cat") == [*features.tokenizer.encode("the cat"), 0, 0]
    assert len(load(features, "the " * 50)) == 4
    assert features.shape.shape == (4,)
    assert features.shape.vocabulary == features.tokenizer.vocabulary
    assert features.absent().tolist() == [0] * 4


def test_the_length_follows_the_data():
    assert fitted(["a b c", "d"] * 10, level="word").length == 3
    assert fitted(["x " * 1000], level="word").length == 256


def test_nothing_left_is_not_the_same_as_a_missing_cell():
    features = fitted(level="word", length=3, cleaning={"stop_words": ["en"]})
    assert load(features, "the") == [UNKNOWN, 0, 0]


def test_numbers_are_texts_too_and_other_things_are_not():
    assert load(fitted(["7"], level="character", length=2), 7) == [2, 0]
    with pytest.raises(InputError) as caught:
        load(fitted(), ["a"])
    assert (
        str(caught.value) == "rows.csv, line 2, column caption: ['a'] is not text. Mend the cell, or the column's kind."
    )
    with pytest.raises(LimitError) as caught:
        load(fitted(), "a" * 70_000)
    assert str(caught.value) == (
        "rows.csv, line 2, column caption: the text has 70,000 characters; the limit is 65,536. Shorten it."
    )


def test_dropping_tokens():
    features = fitted(level="word", drop=0.5)
    stack = torch.tensor([[5, 6, 7, 0]] * 100)
    assert torch.equal(features.features(stack), stack)
    dropped = features.features(stack, True, torch.Generator().manual_seed(0))
    assert not dropped[:, 3].any()
    assert 100 < (dropped == UNKNOWN).sum() < 200
    assert ((dropped == stack) | (dropped == UNKNOWN)).all()


@pytest.mark.parametrize("level", ["word", "character", "subword"])
def test_state_brings_features_back(level):
    features = fitted(level=level)
    again = TextFeatures.from_state(features.state())
    assert [load(again, text) for text in TEXTS] == [load(features, text) for text in TEXTS]
    assert again.shape == features.shape


@given(ANY_TEXT)
@settings(max_examples=150, deadline=None)
def test_pieces_are_the_text_cut_as_its_tokens(text):
    tokenizer = subwords()
    pieces = tokenizer.pieces(text)
    assert "".join(pieces) == text
    assert len(pieces) == len(tokenizer.encode(text))
    characters = train_tokenizer("character", [text], 1000)
    assert "".join(characters.pieces(text)) == text


def test_pieces_of_words_are_as_many_as_the_ids_that_are_kept():
    features = TextFeatures(TextFeatures.Config(level="word", length=3)).fit(TEXTS)
    assert features.pieces("The cat, unheard of, sat", "here") == ["the ", "cat ", ", "]
