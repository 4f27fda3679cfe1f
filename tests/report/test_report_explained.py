"""The page that shows why: whole, closed to the network, deaf to hostile text, true to its figures."""

import numpy as np
import pytest

from report.parsed import Page
from triptych.report import shares
from triptych.report.explained import Explanation, render
from triptych.report.media import picture_uri, sound_uri
from triptych.report.schema import Look

HOSTILE = "<script>alert('x')</script>{{ 7*7 }}"
PICTURE = picture_uri(np.full((8, 8, 3), 90, np.uint8))


def explanation(**changes):
    fields = [
        {"name": "photo", "kind": "image", "value": PICTURE, "looks": [{"name": "for it", "picture": PICTURE}]},
        {
            "name": "voice",
            "kind": "audio",
            "value": sound_uri(np.zeros(800, np.float32), 8_000),
            "looks": [
                {"name": "for it", "picture": PICTURE, "axes": {"seconds": 1, "marks": [("500", 0.3), ("2k", 0.8)]}}
            ],
        },
        {
            "name": "words",
            "kind": "text",
            "value": HOSTILE,
            "looks": [{"name": "for it", "pieces": [{"text": HOSTILE, "weight": -0.5}, {"text": "x", "weight": 1}]}],
        },
        {"name": "age", "kind": "number", "value": "41"},
        {"name": "town", "kind": "category", "value": None},
    ]
    given = (0.3, 0.25, -0.1, 0.05, 0.0)
    row = {
        "place": "test.csv, line 2",
        "truth": "seven",
        "answer": {"label": HOSTILE},
        "none": 0.1,
        "all": 0.6,
        "parts": [{"field": f, "without": 0.6 - g, "share": g} for f, g in zip(fields, given, strict=True)],
        "attention": np.full((5, 5), 0.2).tolist(),
    }
    overview = [
        {"name": f["name"], "share": g, "shares": (g, g - 0.2, g + 0.1), "without": 0.6 - g}
        for f, g in zip(fields, given, strict=True)
    ]
    overview[0] |= {"grid": (8, 8), "blanked": {"whole": 0.6, "shown": 0.21, "random": 0.55}}
    content = {
        "title": "Seeing why",
        "command": "triptych explain",
        "unit": "probability",
        "rows": 3,
        "none": 0.1,
        "all": 0.6,
        "blanked_share": 0.2,
        "gradients": "own",
        "overview": overview,
        "shown": [row],
        "environment": {"cpu": "x", "threads": 1},
    }
    return Explanation.model_validate(content | changes)


def test_the_page_is_whole_and_closed():
    html = render(explanation())
    page = Page(html)
    assert "default-src 'none'" in html
    assert not page.all("script")
    assert all(image["alt"] for image in page.all("img"))
    for attributes in (attributes for _, attributes in page.elements):
        for name in ("src", "href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#", "explanation.json"))
    assert page.text.count(HOSTILE) == 2  # as an answer and as a text
    assert "<script" not in html
    assert render(explanation()) == html


def test_the_page_says_the_figures():
    text = Page(render(explanation())).text
    assert "From 10% with nothing to 60% with everything: photo +30, voice +25, words \u221210, age +5, town 0." in text
    assert "60% falls to 21% with the brightest 20% of the map blanked, to 55% with as much at random" in text
    assert "truth: seven" in text
    assert "absent" in text


def test_a_number_is_said_in_its_own_unit():
    shown = explanation().shown[0].model_copy(update={"truth": None, "none": 98.0, "all": 120.0, "attention": ()})
    fields = [field.model_copy(update={"blanked": None}) for field in explanation().overview]
    found = explanation(unit="number", none=98.0, all=120.0, shown=[shown], overview=fields)
    text = Page(render(found)).text
    assert "By how much each field moves the number, on average: photo 0.3" in text
    assert "120" in text
    assert "%" not in text.split("How to read it")[0]


def test_steps_make_a_staircase():
    level = shares.levels(0.1, [0.3, -0.2])
    assert level == pytest.approx([0.1, 0.4, 0.2])
    assert "less" not in shares.step(level, 0)
    assert "less" in shares.step(level, 1)
    up, down = (Page(shares.step(level, place, top=1)) for place in (0, 1))
    right, left = up.all("line")[-1], down.all("line")[1]
    assert right["y1"] == left["y1"]  # the next step begins where the last one ended


def test_every_row_is_in_the_histogram():
    given = np.random.default_rng(0).normal(size=500)
    bars = Page(shares.spread(given.tolist(), float(given.min()), float(given.max()), 7)).all("rect")
    assert 10 < len(bars) <= shares.BINS
    assert {bar["class"] for bar in bars} == {"m1"}


def test_a_look_takes_no_address_and_no_script():
    for picture in ("https://example.org/a.png", "data:image/svg+xml;base64,AAAA"):
        with pytest.raises(ValueError, match="must be a base64 data URI"):
            Look(name="x", picture=picture)
