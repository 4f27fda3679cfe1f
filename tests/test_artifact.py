import json
import logging
import os

import pytest

from triptych import artifact, manifest
from triptych.errors import ArtifactError
from triptych.manifest import FileRecord

IDENTITY = {"recipe": {"seed": 1, "layers": [{"width": 64}, {"width": 32}]}, "data": "ab12"}


def make(target, identity=None, **files):
    with artifact.publish(target, IDENTITY if identity is None else identity) as staging:
        for name, content in (files or {"weights": "w", "config": "c"}).items():
            (staging / name).write_text(content)
    return target


def forge(folder, files):
    """A manifest with a right checksum that lists what an attacker likes."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(manifest.render({}, {name: FileRecord(1, "0" * 64) for name in files}))
    return folder


def test_published_files_are_listed_and_verified(tmp_path):
    target = tmp_path / "runs" / "new" / "model"
    with artifact.publish(target, IDENTITY) as staging:
        assert staging.parent == target.parent
        assert staging.name == f".model.staging-{os.getpid()}"
        assert not target.exists()
        (staging / "weights.bin").write_bytes(b"1234")
        (staging / "processor" / "text").mkdir(parents=True)
        (staging / "processor" / "text" / "tokenizer.json").write_text("{}")
    found = artifact.verify(target)
    assert found == artifact.read_manifest(target)
    assert found.schema == 1
    assert found.size_bytes == 6
    assert found.identity == IDENTITY
    assert {name: record.bytes for name, record in found.files.items()} == {
        "processor/text/tokenizer.json": 2,
        "weights.bin": 4,
    }
    assert found.files["weights.bin"].sha256 == "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4"
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_an_exception_publishes_nothing(tmp_path):
    def fail():
        with artifact.publish(tmp_path / "model", IDENTITY) as staging:
            (staging / "weights").write_text("half")
            raise RuntimeError("training failed")

    with pytest.raises(RuntimeError, match="training failed"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_existing_knows_its_own(tmp_path):
    target = tmp_path / "model"
    assert artifact.existing(target, IDENTITY) is False
    target.mkdir()
    assert artifact.existing(target, IDENTITY) is False, "an empty folder holds nothing to overwrite"
    make(target)
    assert artifact.existing(target, IDENTITY) is True
    shuffled = {"data": "ab12", "recipe": {"layers": ({"width": 64}, {"width": 32}), "seed": 1}}
    assert artifact.existing(target, shuffled) is True, "order, and tuples for lists, make no difference"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": "cd34"}, 'data is "ab12" there and "cd34" here'),
        (
            {"recipe": {"seed": 2, "layers": []}},
            r'recipe\.layers is \[{"width": 64}, {"width": 32}\] there and \[\] here',
        ),
        (
            {"recipe": {"seed": 1, "layers": [{"width": 64}, {"width": 8}]}},
            r"recipe\.layers\[1\]\.width is 32 there and 8",
        ),
        ({"recipe": {"layers": IDENTITY["recipe"]["layers"]}}, r"recipe\.seed is 1 there and absent here"),
        ({"budget": None}, "budget is absent there and null here"),
        ({"data": "x" * 200}, r'data is "ab12" there and "x{76}\.\.\. here'),
    ],
)
def test_another_identity_is_refused_with_the_field(tmp_path, change, told):
    target = make(tmp_path / "model")
    with pytest.raises(ArtifactError, match=rf"model was made from something else: {told}.*Choose another output"):
        artifact.existing(target, {**IDENTITY, **change})
    with pytest.raises(ArtifactError, match="was made from something else"):
        make(target, {**IDENTITY, **change})
    assert artifact.existing(target, IDENTITY)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "dangling").symlink_to("dangling")
    with pytest.raises(ArtifactError, match=r"notes holds files but no manifest\.json.*nothing is overwritten"):
        make(tmp_path / "notes")
    with pytest.raises(ArtifactError, match=r"file is not a folder\. Choose another output; nothing is overwritten"):
        make(tmp_path / "file")
    with pytest.raises(ArtifactError, match=r"dangling is not a folder"):
        artifact.existing(tmp_path / "dangling", IDENTITY)
    make(tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"model already holds this artifact\. Use it, or choose another output"):
        make(tmp_path / "model")
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"


def test_what_appears_while_it_is_written_stays(tmp_path):
    def write():
        with artifact.publish(tmp_path / "model", IDENTITY):
            (tmp_path / "model").mkdir()
            (tmp_path / "model" / "mine").write_text("mine")

    with pytest.raises(ArtifactError, match="model appeared while it was being written"):
        write()
    assert (tmp_path / "model" / "mine").read_text() == "mine"


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    make(tmp_path / "out" / "model")
    make(tmp_path / "out2" / "model")
    artifact.verify(tmp_path / "disk" / "model")
    (tmp_path / "latest").symlink_to(tmp_path / "disk" / "model")
    assert artifact.existing(tmp_path / "latest", IDENTITY)


def test_an_identity_that_json_cannot_hold_is_refused_before_the_work(tmp_path):
    for value, error in ((float("nan"), ValueError), (object(), TypeError)):
        with pytest.raises(error):
            make(tmp_path / "model", {"x": [value]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe", "manifest", "backslash"])
def test_what_cannot_be_verified_is_not_published(tmp_path, kind):
    def write():
        with artifact.publish(tmp_path / "out" / "model", IDENTITY) as staging:
            if kind == "link":
                (staging / "passwords").symlink_to("/etc/passwd")
            elif kind == "folder link":
                (staging / "etc").symlink_to("/etc")
            elif kind == "pipe":
                os.mkfifo(staging / "pipe")
            else:
                (staging / {"manifest": "manifest.json", "backslash": "..\\evil"}[kind]).write_text("{}")

    told = {
        "link": "passwords is a link; an artifact holds plain files only",
        "folder link": "etc is a link",
        "pipe": "pipe is not a plain file",
        "manifest": r"manifest\.json was staged, but that name is the manifest's own",
        "backslash": "which is not a plain path inside the folder",
    }
    with pytest.raises(ArtifactError, match=told[kind]):
        write()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "kind", ["missing", "extra", "truncated", "appended", "flipped", "swapped", "edited", "link", "folder link"]
)
def test_every_kind_of_damage_names_the_file(tmp_path, kind):
    folder = make(tmp_path / "model", weights="1234", config="5678")
    path = folder / "weights"
    if kind == "missing":
        path.unlink()
    elif kind == "extra":
        path = folder / "code.py"
        path.write_text("import os")
    elif kind == "swapped":
        path.write_text("5678")
        (folder / "config").write_text("1234")
        path = folder / "config"
    elif kind == "link":
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
    elif kind == "folder link":
        path = folder / "more"
        path.symlink_to(tmp_path)
    else:
        path.write_text({"truncated": "123", "appended": "12345", "flipped": "1235", "edited": "4321"}[kind])
    told = {
        "missing": "is missing: manifest.json lists it. Restore it from a copy, or make it again.",
        "extra": "does not belong here: manifest.json does not list it. Remove it.",
        "truncated": "is damaged: it has 3 bytes and should have 4. Restore it from a copy, or make it again.",
        "appended": "is damaged: it has 5 bytes and should have 4. Restore it from a copy, or make it again.",
        "link": "is a link; an artifact holds plain files only. Put the file itself there.",
        "folder link": "is a link; an artifact holds plain files only. Put the file itself there.",
    }
    changed = "is damaged or was edited: its SHA-256 is not the manifest's. Restore it from a copy, or make it again."
    with pytest.raises(ArtifactError) as refused:
        artifact.verify(folder)
    assert str(refused.value) == f"{path} {told.get(kind, changed)}"


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "a/../../b", "..", "", ".", "a//b", "./a", "a\\b", "C:x", "a\0b"]
)
def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    folder = forge(tmp_path / "model", [name])
    with pytest.raises(
        ArtifactError, match=r"manifest\.json names .*, which is not a plain path inside the folder"
    ) as refused:
        artifact.verify(folder)
    assert repr(name) in str(refused.value)


def test_a_manifest_that_lists_itself_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing: manifest\.json lists it"):
        artifact.verify(forge(tmp_path / "model", ["manifest.json"]))


def test_an_edited_manifest_is_noticed_even_where_it_still_fits_the_files(tmp_path):
    folder = make(tmp_path / "model")
    path = folder / "manifest.json"
    whole = path.read_text()
    for text in (
        whole.replace('"seed": 1', '"seed": 2'),
        whole + " ",
        whole.replace('"schema": 1,', '"schema": 1, "schema": 1,'),
        whole.replace(json.loads(whole)["sha256"], "0" * 64),
    ):
        path.write_text(text)
        with pytest.raises(
            ArtifactError, match=r"manifest\.json is damaged or was edited: its own checksum does not match"
        ):
            artifact.read_manifest(folder)
    path.write_text(whole)
    artifact.verify(folder)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[]", b"null", b"{}", b'{"schema": 1}', b"[" * 100_000, b"1" * 5000]
)
def test_a_manifest_that_is_none_is_damaged(tmp_path, content):
    folder = make(tmp_path / "model")
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model/manifest\.json is damaged: it is not the JSON of a manifest"):
        artifact.verify(folder)


def test_a_manifest_of_strange_types_is_damaged(tmp_path):
    folder = make(tmp_path / "model")
    for files in ([], {"a": 3}, {"a": {"bytes": "many", "sha256": ""}}, None):
        (folder / "manifest.json").write_text(json.dumps({"schema": 1, "identity": {}, "files": files, "sha256": ""}))
        with pytest.raises(ArtifactError, match="is damaged"):
            artifact.verify(folder)


def test_a_later_schema_asks_for_an_update(tmp_path):
    folder = make(tmp_path / "model")
    text = (folder / "manifest.json").read_text().replace('"schema": 1', '"schema": 2')
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"has schema 2; this version of Triptych reads 1\. Update Triptych"):
        artifact.verify(folder)


def test_a_folder_that_is_no_artifact(tmp_path):
    with pytest.raises(ArtifactError, match=rf"There is no folder {tmp_path}/nothing\. Check the path"):
        artifact.verify(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json: it is not an artifact, or not a whole one"):
        artifact.verify(tmp_path)
    (tmp_path / "manifest.json").symlink_to(make(tmp_path / "model") / "manifest.json")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        artifact.verify(tmp_path)


def test_any_file_name_survives(tmp_path):
    names = ["späße.json", "with space", "line\nbreak", "quote\"'", os.fsdecode(b"\xff.bin"), ".hidden", "0" * 64]
    folder = make(
        tmp_path / "model",
        {"label": "0" * 64 + " Straße"},
        **{f"{name}": name[:3].encode("utf-8", "replace").decode() for name in names},
    )
    assert set(artifact.verify(folder).files) == set(names)


def test_the_same_content_gives_the_same_manifest(tmp_path):
    first, second = make(tmp_path / "a", a="1", b="2"), make(tmp_path / "b", b="2", a="1")
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()


def test_one_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "report.json"
    artifact.write_file(path, "größer")
    assert path.read_bytes() == "größer".encode()
    artifact.write_file(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
    with pytest.raises(ArtifactError, match="new appeared while it was being written"):
        artifact.write_file(tmp_path / "new", "over a folder")


def test_a_relative_path_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact.write_file(artifact.Path("report.json"), "1")
    make(artifact.Path("model"))
    artifact.verify(artifact.Path("model"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "report.json"]


def generation(folder, name, content=None, keep=2):
    return artifact.save_generation(
        folder, name, lambda staging: (staging / "x").write_text(content or name), keep=keep
    )


def test_generations_follow_each_other_and_old_ones_go(tmp_path):
    folder = tmp_path / "steps"
    assert artifact.latest_generation(folder) is None
    for number, name in enumerate(("c", "b", "a", "d")):
        saved = generation(folder, name)
        assert saved == artifact.latest_generation(folder) == folder / name
        assert len(list(folder.iterdir())) == min(number + 1, 2) + 1
    assert sorted(path.name for path in folder.iterdir()) == ["CURRENT", "a", "d"]
    name, checksum = (folder / "CURRENT").read_text().split()
    assert (name, checksum) == ("d", artifact.verify(folder / "d").sha256)
    generation(folder, "e", keep=4)
    generation(folder, "f", keep=4)
    assert sorted(path.name for path in folder.iterdir()) == ["CURRENT", "a", "d", "e", "f"]
    generation(folder, "g", keep=1)
    assert sorted(path.name for path in folder.iterdir()) == ["CURRENT", "g"]


def test_a_generation_that_is_whole_stays_as_it_is(tmp_path):
    generation(tmp_path, "one", "first")
    generation(tmp_path, "two")
    generation(tmp_path, "one", "second")
    assert (artifact.latest_generation(tmp_path) / "x").read_text() == "first"
    (tmp_path / "one" / "x").write_text("broken")
    generation(tmp_path, "one", "third")
    assert (artifact.latest_generation(tmp_path) / "x").read_text() == "third"


@pytest.mark.parametrize("damage", ["file", "manifest", "gone", "other", "CURRENT", "CURRENT to elsewhere"])
def test_damage_falls_back_to_the_generation_before_and_says_so(tmp_path, caplog, damage):
    for name in ("one", "two", "three"):
        generation(tmp_path, name, keep=3)
    expected = tmp_path / "two"
    if damage == "file":
        (tmp_path / "three" / "x").write_text("thref")
    elif damage == "manifest":
        (tmp_path / "three" / "manifest.json").write_text("{}")
    elif damage == "gone":
        (tmp_path / "three").rename(tmp_path.parent / f"{tmp_path.name}-gone")
    elif damage == "other":  # whole in itself, and not what CURRENT names
        for path in (tmp_path / "three").iterdir():
            path.write_bytes((tmp_path / "two" / path.name).read_bytes())
    else:
        (tmp_path / "CURRENT").write_text("three" if damage == "CURRENT" else "../three " + "0" * 64 + "\n")
        expected = tmp_path / "three"
    with caplog.at_level(logging.WARNING):
        assert artifact.latest_generation(tmp_path) == expected
    assert f"Going on from {expected} instead." in caplog.text
    assert str(tmp_path / ("CURRENT" if damage.startswith("CURRENT") else "three")) in caplog.text


def test_when_no_generation_is_whole_a_person_decides(tmp_path):
    for name in ("one", "two"):
        (generation(tmp_path, name) / "x").write_text("broken")
    with pytest.raises(ArtifactError, match=r"No generation in .* is whole\. .*/two/x is damaged.*to start over"):
        artifact.latest_generation(tmp_path)
    generation(tmp_path, "three")
    assert artifact.latest_generation(tmp_path) == tmp_path / "three"


def test_without_current_a_damaged_generation_is_not_silently_passed_over(tmp_path):
    (generation(tmp_path, "one") / "manifest.json").write_text("{}")
    (tmp_path / "CURRENT").unlink()
    with pytest.raises(ArtifactError, match=r"one/manifest\.json is damaged"):
        artifact.latest_generation(tmp_path)


def test_folders_that_are_no_generations_are_left_alone(tmp_path):
    make(tmp_path / "model")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    for name in ("one", "two", "three"):
        generation(tmp_path, name, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CURRENT", "model", "notes", "three"]
    for name in ("model", "notes"):
        with pytest.raises(ArtifactError):
            generation(tmp_path, name)
    assert artifact.existing(tmp_path / "model", IDENTITY)
    assert artifact.latest_generation(tmp_path) == tmp_path / "three"
    (tmp_path / "three" / "x").write_text("broken")
    with pytest.raises(ArtifactError, match="No generation in"):
        artifact.latest_generation(tmp_path)


@pytest.mark.parametrize(("name", "keep"), [("a/b", 1), ("../a", 1), (".a", 1), ("a", 0)])
def test_a_wrong_generation_is_a_programming_error(tmp_path, name, keep):
    with pytest.raises(ValueError, match="keep must be at least 1 and the name one visible path component"):
        generation(tmp_path, name, keep=keep)
