import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from triptych import cli
from triptych.errors import ContractBroken, Stopped

VERBS = [
    "demo",
    "check",
    "train",
    "inspect",
    "compress",
    "evaluate",
    "explain",
    "predict",
    "search",
    "export",
    "verify",
]


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: exit code, standard output, standard error."""
    from triptych import console

    def call(*words: object):
        monkeypatch.setattr(sys, "argv", ["triptych", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        console.set_mode()
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call


def test_help_imports_no_torch():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['triptych', '--help']\n"
        "from triptych.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'openvino', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert verb in done.stdout


def test_the_surface_is_what_it_was(run):
    """A new verb or flag is a decision: add it here too."""
    flags = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert flags == set(VERBS)


def test_the_help_of_compress_teaches_what_folders_can_have(run):
    code, out, _ = run("compress", "--help")
    assert code == 0
    words = " ".join(out.split())
    for option in ("--size", "--method", "--migrate", "--modality-weights", "--kv-cache", "--recover", "--keep"):
        assert f"{option} <" in words or f"{option} " in words
    for word in (
        "gptaq",
        "autoround",
        "<awq|smooth|both>",
        "<fp8|int8>",
        "decoder=f8",
        "every layer is given the bits",
    ):
        assert word in words


def test_check_prints_the_kinds_and_the_counts(run, tiny_data):
    code, out, _ = run("check", tiny_data)
    assert code == 0
    assert "picture  image" in out
    assert "sound    audio" in out
    assert "0 errors" in out


def test_json_prints_one_object_on_standard_output_alone(run, tiny_data):
    code, out, err = run("check", tiny_data, "--json")
    assert code == 0
    assert json.loads(out)["rows"] == {"test": 32, "train": 96, "valid": 32}
    assert "columns" in err


def test_inspect_evaluate_predict_verify_and_export_work_on_a_trained_model(run, tiny_trained, tiny_data, tmp_path):
    model = tiny_trained.loaded.folder
    code, out, _ = run("inspect", model, "--json")
    assert code == 0
    description = json.loads(out)
    assert description["parameters"] == sum(p.numel() for p in tiny_trained.loaded.model.parameters())
    assert sum(c["parameters"] for c in description["components"]) == description["parameters"]

    code, out, _ = run("inspect", model, "--data", tiny_data)
    assert code == 0
    assert "rows of data tell nothing new" in out

    code, out, _ = run("evaluate", model, "--data", tiny_data, "--against", model, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["kept"]["kept"] == 1
    assert set(found["model"]["quality"]["without"]) == {"picture", "sound", "word"}

    picture = tiny_data / "0_0.png"
    code, out, _ = run("predict", model, f"picture={picture}", "word=zero", "--json")
    assert code == 0
    assert json.loads(out)["answer"] in {"same", "other"}

    code, out, _ = run("predict", model, "--data", tiny_data, "--json")
    assert code == 0
    assert len(json.loads(out)["predictions"]) == 160

    code, out, _ = run("verify", model)
    assert code == 0
    assert "is whole" in out

    code, out, _ = run("export", model, "--to", "openvino", "--out", tmp_path / "ov", "--data", tiny_data)
    assert code == 0
    assert {"openvino_model.xml", "openvino_model.bin", "processor.json", "manifest.json"} <= {
        f.name for f in (tmp_path / "ov").iterdir()
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nowhere.csv"], r"There is no nowhere.csv"),
        (["train", "nowhere.yaml"], "There is no recipe nowhere.yaml"),
        (["inspect", "nowhere"], "There is no folder nowhere"),
        (["verify", "nowhere"], "There is no folder nowhere"),
        (["frobnicate"], "No such command"),
        (["train"], "Missing argument"),
        (["check", "x", "--sharply"], "No such option"),
        (["compress", "x", "--data", "y", "--migrate", "sideways"], "'sideways' is not one of"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(run, words, message):
    code, out, err = run(*words)
    assert code == 2
    assert message in out + err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [(ContractBroken("kept too little."), 3), (Stopped("stopped at step 5."), 75), (KeyboardInterrupt(), 75)],
)
def test_exit_codes_tell_scripts_what_happened(run, monkeypatch, error, code):
    from triptych import artifact

    def fails(_folder):
        raise error

    monkeypatch.setattr(artifact, "verify", fails)
    found, _, err = run("verify", "model")
    assert found == code
    assert err.startswith("triptych: ")


def test_predict_explains_its_fields(run, tiny_trained):
    model = tiny_trained.loaded.folder
    code, _, err = run("predict", model)
    assert code == 2
    assert "Give at least one of: picture=..., sound=..., word=..." in err
    code, _, err = run("predict", model, "word=zero", "--top-k", 5)
    assert code == 2
    assert "Temperature, top-k, top-p and seed are for words that are drawn. Add --sample." in err
    code, _, err = run("predict", model, "word=zero", "--sample")
    assert code == 2
    assert "This model does not write token by token, so nothing can be drawn." in err
    code, _, err = run("predict", model, "colour=red")
    assert code == 2
    assert "'colour=red' is not FIELD=VALUE for this model. Its fields are: picture, sound, word." in err


def test_training_on_a_table_with_an_unreadable_row_leaves_it_out_or_stops(run, tiny_data, tiny_recipe, tmp_path):
    import shutil

    import yaml

    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (data / "0_0.png").write_bytes(b"not a picture")
    recipe = tmp_path / "recipe.yaml"
    content = tiny_recipe.model_dump(mode="json")
    content["train"]["steps"] = 2
    recipe.write_text(yaml.safe_dump(content))
    code, _, err = run("train", recipe, "--data", data, "--out", tmp_path / "strict", "--strict")
    assert code == 2
    assert "0_0.png" in err
    assert not (tmp_path / "strict").exists()
    code, out, _ = run("train", recipe, "--data", data, "--out", tmp_path / "model")
    assert code == 0
    assert "0_0.png" in out


def test_a_table_without_a_known_target_says_which_columns_there_are(run, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    table = tmp_path / "rows.csv"
    table.write_text("picture,words,number_of_things\n" + "a.png,some words,3\n" * 20)
    code, _, err = run("train", table, "--out", tmp_path / "model")
    assert code == 2
    assert "is known to be the target. Name it with --target; the columns are: picture, words, number_of_things" in err


def test_a_recipe_with_a_misspelt_key_names_the_nearest(run, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {steps: 3, batchsize: 8}\n")
    code, _, err = run("train", recipe)
    assert code == 2
    assert "train.batchsize is not a setting (did you mean batch_size?)" in err
    assert Path("runs/model").exists() is False
