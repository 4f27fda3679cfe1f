"""Five hundred damages to a saved model: every one is refused, and the file is named."""

import json
import random
import shutil

import numpy as np
import pytest
import safetensors.numpy
from damages import append, drop, edit, flip, flip_header, flip_payload, replace_by_link, truncate, zero_page

from triptych import artifact
from triptych.errors import ArtifactError

DAMAGES = 500


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "model"
    rng = np.random.default_rng(0)
    with artifact.publish(out, {"recipe": {"seed": 7}, "version": 1}) as staging:
        for shard in ("model-1.safetensors", "model-2.safetensors"):
            tensors = {"weight": rng.normal(size=(64, 48)).astype(np.float32), "bias": rng.normal(size=64)}
            safetensors.numpy.save_file(tensors, staging / shard)
        (staging / "config.json").write_text(json.dumps({"width": 64, "layers": [1, 2, 3]}, indent=1))
        (staging / "processor").mkdir()
        (staging / "processor" / "tokenizer.json").write_text(json.dumps({"vocabulary": ["cat", "dog"]}))
    return out


SHARDS = ["model-1.safetensors", "model-2.safetensors"]
ALL = [*SHARDS, "config.json", "processor/tokenizer.json", "manifest.json"]
KINDS = [
    (truncate, ALL),
    (append, ALL),
    (flip, ALL),
    (flip_header, SHARDS),
    (flip_payload, SHARDS),
    (zero_page, SHARDS),
    (drop, ALL),
    (edit, ["config.json", "manifest.json"]),
    (replace_by_link, ALL),
]


def swap(folder, rng):
    first, second = rng.sample(ALL[:-1], 2)
    content = (folder / first).read_bytes()
    (folder / first).write_bytes((folder / second).read_bytes())
    (folder / second).write_bytes(content)
    return [first, second]


def add(folder, rng):
    name = rng.choice(["model-3.safetensors", "processor/extra.json", ".hidden", "new/code.py"])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"anything")
    return [name]


def damage(folder, rng):
    """Damage one thing; the names of which the message must hold one."""
    kind = rng.randrange(len(KINDS) + 2)
    if kind < len(KINDS):
        change, names = KINDS[kind]
        name = rng.choice(names)
        change(folder / name, rng)
        return [name]
    return swap(folder, rng) if kind == len(KINDS) else add(folder, rng)


def test_every_damage_is_refused_by_name(model, place):
    rng = random.Random(0)  # noqa: S311 - damages, not secrets
    for number in range(DAMAGES):
        copy = place / str(number) / "model"
        shutil.copytree(model, copy)
        names = damage(copy, rng)
        with pytest.raises(ArtifactError) as refused:
            artifact.verify(copy)
        assert any(name in str(refused.value) for name in names), (names, str(refused.value))
        shutil.rmtree(copy.parent)
    artifact.verify(model)


def test_a_damaged_model_is_not_taken_for_an_existing_one(model, place):
    shutil.copytree(model, place / "model")
    drop(place / "model" / "config.json", None)
    with pytest.raises(ArtifactError, match=r"config\.json is missing: manifest\.json lists it\. Restore it"):
        artifact.existing(place / "model", {"recipe": {"seed": 7}, "version": 1})
