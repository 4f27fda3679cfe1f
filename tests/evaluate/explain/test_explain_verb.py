"""`triptych explain` on a model trained from a table: the page is whole, says what was found, and is never overwritten."""

import json
import shutil

import pytest

from report.parsed import Page
from triptych import artifact
from triptych.errors import ArtifactError, InputError
from triptych.evaluate.explain.verb import Asked, explain_model


def call(trained, data, out, **settings):
    return explain_model(trained.loaded.folder, data, out, Asked(**settings), command="triptych explain")


@pytest.fixture(scope="module")
def explained(tiny_trained, tiny_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("explained") / "page"
    call(tiny_trained, tiny_data, out, rows=3)
    return out


def test_the_page_shows_what_the_json_holds(explained):
    found = json.loads((explained / "explanation.json").read_text())
    assert found["rows"] == 32
    assert found["unit"] == "probability"
    assert [field["name"] for field in found["overview"]] == ["picture", "sound", "word"]
    assert [row["place"] for row in found["shown"]] == [f"test.csv, line {line}" for line in (2, 18, 33)]
    for field in found["overview"]:
        assert len(field["shares"]) == 32
        assert (field["grid"] is None) == (field["name"] == "word")
    whole = found["none"] + sum(field["share"] for field in found["overview"])
    assert whole == pytest.approx(found["all"])
    for row in found["shown"]:
        assert row["none"] + sum(part["share"] for part in row["parts"]) == pytest.approx(row["all"])
        picture, sound, word = (part["field"] for part in row["parts"])
        assert [look["axes"] is None for look in (picture["looks"][0], sound["looks"][0])] == [True, False]
        assert "".join(piece["text"] for piece in word["looks"][0]["pieces"]) == word["value"]
        assert max(abs(piece["weight"]) for piece in word["looks"][0]["pieces"]) == 1
    page = Page((explained / "explanation.html").read_text())
    assert len(page.all("article")) == 3
    assert f"{100 * found['none']:.0f}% with nothing to {100 * found['all']:.0f}% with everything" in page.text


def test_the_same_call_keeps_the_page_and_another_is_refused(explained, tiny_trained, tiny_data):
    before = (explained / "explanation.html").stat().st_mtime_ns
    call(tiny_trained, tiny_data, explained, rows=3)
    assert (explained / "explanation.html").stat().st_mtime_ns == before
    with pytest.raises(ArtifactError, match="rows"):
        call(tiny_trained, tiny_data, explained, rows=2)
    artifact.verify(explained)


def test_the_worst_rows_are_those_furthest_from_the_truth(tiny_trained, tiny_data, tmp_path):
    call(tiny_trained, tiny_data, tmp_path / "worst", rows=4, worst=True, split="valid", gradients="mean")
    assert "Light is Grad-CAM, the brightest" in Page((tmp_path / "worst" / "explanation.html").read_text()).text
    found = json.loads((tmp_path / "worst" / "explanation.json").read_text())
    sure = [row["all"] for row in found["shown"]]
    assert sure == sorted(sure)
    assert sure[-1] <= found["all"]


def test_a_table_without_truth_and_with_gaps_is_explained_too(tiny_trained, tiny_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    header, *lines = (data / "test.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[:4]]
    cut = [[picture, "" if i < 2 else sound, word, "", take] for i, (picture, sound, word, _, take) in enumerate(rows)]
    (data / "test.csv").write_text("\n".join([header, *map(",".join, cut)]) + "\n")
    call(tiny_trained, data, tmp_path / "page")
    found = json.loads((tmp_path / "page" / "explanation.json").read_text())
    assert [row["truth"] for row in found["shown"]] == [None] * 4
    assert [row["all"] == pytest.approx(row["answer"]["probability"]) for row in found["shown"]] == [True] * 4
    sound = found["shown"][0]["parts"][1]
    assert (sound["field"]["value"], sound["share"], sound["field"]["looks"]) == (None, 0, [])
    with pytest.raises(InputError, match="The worst rows are those with the least probability for the truth"):
        call(tiny_trained, data, tmp_path / "worst", worst=True)


def test_no_rows_are_refused(tiny_trained, tiny_data, tmp_path):
    with pytest.raises(InputError, match="0 rows cannot be shown"):
        call(tiny_trained, tiny_data, tmp_path / "page", rows=0)
