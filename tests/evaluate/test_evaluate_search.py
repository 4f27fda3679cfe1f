import json

import numpy as np
import pytest

from triptych import console
from triptych.errors import ArtifactError, InputError
from triptych.evaluate import search as searching
from triptych.evaluate.search import index, neighbours, search


@pytest.fixture
def model(matched):
    return matched.trained.loaded.folder


def digits(found, column):
    return [row[column].partition("_")[0] for row in found["found"]]


def test_each_modality_finds_the_other_and_itself(matched, model):
    picture, sound = (str(matched.folder / f"1_10.{kind}") for kind in ("png", "wav"))
    for words, column in (([f"picture={picture}"], "sound"), ([f"sound={sound}"], "picture")):
        found = search(model, matched.folder, words, top=3)
        assert digits(found, column) == ["1"] * 3
        assert [row["rank"] for row in found["found"]] == [1, 2, 3]
    same = search(model, matched.folder, [f"picture={picture}"], column="picture", top=1)["found"][0]
    assert same["picture"] == "1_10.png"
    assert same["similarity"] == pytest.approx(1, abs=1e-4)
    assert same["place"].startswith("test.csv, line ")


def test_a_table_is_read_once(matched, model, monkeypatch, tmp_path):
    words = [f"sound={matched.folder / '2_11.wav'}"]
    first = search(model, matched.folder, words, out=tmp_path / "kept")
    monkeypatch.setattr(searching.Tower, "__init__", _only_the_question(searching.Tower.__init__))
    again = search(model, matched.folder, words, out=tmp_path / "kept")
    assert again["found"] == first["found"]
    assert again["vectors"] == str(tmp_path / "kept")
    with pytest.raises(ArtifactError, match="column"):
        search(model, matched.folder, words, column="sound", out=tmp_path / "kept")


def _only_the_question(make):
    def made(tower, loaded, field):
        make(tower, loaded, field)
        run = tower.run
        tower.run = lambda inputs, presence: run(inputs, presence) if len(presence) == 1 else pytest.fail("read again")

    return made


def test_a_graph_of_neighbours_finds_what_comparing_all_finds(monkeypatch, tmp_path):
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    compare = index(tmp_path, vectors)
    faiss.write_index(neighbours(vectors), str(tmp_path / searching.GRAPH))
    monkeypatch.setattr(searching, "COMPARED", 1000)
    walk = index(tmp_path, vectors)
    shared = 0
    for row in range(50):
        (exact, places), (cosines, found) = compare(vectors[row : row + 1], 10), walk(vectors[row : row + 1], 10)
        assert cosines[0] == pytest.approx(exact[0], abs=1e-5)
        shared += len(set(places.tolist()) & set(found.tolist()))
    assert shared > 0.98 * 500


def test_many_cells_without_faiss_say_what_to_install(monkeypatch, matched, model, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    monkeypatch.setattr(searching, "COMPARED", 2)
    with pytest.raises(InputError, match=r"pip install triptych\[search\]"):
        search(model, matched.folder, [f"picture={matched.folder / '1_10.png'}"], out=tmp_path / "kept")


def test_bad_questions_are_refused(matched, model, tiny_trained, tiny_data):
    picture = f"picture={matched.folder / '1_10.png'}"
    for words, said in (
        (["word=one"], "'word=one' is not FIELD=VALUE for this model.*picture, sound"),
        ([picture, f"sound={matched.folder / '1_10.wav'}"], "starts from one field, not from picture and sound"),
        ([], "nothing to start from"),
        (["picture=nowhere.png"], "picture=nowhere.png: there is no file"),
    ):
        with pytest.raises(InputError, match=said):
            search(model, matched.folder, words)
    with pytest.raises(InputError, match="no field 'word'"):
        search(model, matched.folder, [picture], column="word")
    with pytest.raises(InputError, match="'classify', which gives answers; it cannot search"):
        search(tiny_trained.loaded.folder, tiny_data, ["word=one"])


def test_the_command_prints_ranks(matched, model, capsys):
    from triptych.cli import app

    try:
        app(
            ["search", str(model), f"picture={matched.folder / '1_10.png'}", "--data", str(matched.folder), "--json"],
            standalone_mode=False,
        )
    finally:
        console.set_mode()
    found = json.loads(capsys.readouterr().out)
    assert found["found"][0]["rank"] == 1
    assert found["searched"] == 36
