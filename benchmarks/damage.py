"""Damaged inputs: a folder that we wrote, and one from elsewhere that brings no checksums; is each refused, by name?

What we wrote is checked against its manifest, so whatever happens to it is known: by `triptych verify`, and wherever a folder is
opened. A folder from elsewhere can only be held against itself: headers, sizes, index, config and shapes must agree and every
number must be one. What agrees with all that (a flipped bit that leaves another number, another epsilon in the config) nobody
can know without a checksum; these are counted apart.

    python -m benchmarks.damage [--trials 1000]
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks import record
from benchmarks.kills import make_model
from triptych import artifact, console
from triptych.compress.hub import write
from triptych.compress.hub.request import HubRequest
from triptych.compress.hub.verb import compress_folder
from triptych.errors import TriptychError
from triptych.models.folder import open_folder
from triptych.models.tensors import INDEX

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fault"))
import damages

SHARD_BYTES = 128 * 1024
Damage = Callable[[Path, random.Random], list[str]]  # damages a folder; the names of which the refusal must hold one


def shards(folder: Path) -> list[Path]:
    """The files that hold tensors."""
    return sorted(folder.glob("*.safetensors"))


def on_a_shard(change: Callable[[Path, random.Random], None]) -> Damage:
    """A change of one file of tensors."""

    def damage(folder: Path, draw: random.Random) -> list[str]:
        path = draw.choice(shards(folder))
        inside = list(load_file(path))
        change(path, draw)
        return [path.name, *inside]

    return damage


def on_any_file(change: Callable[[Path, random.Random], None]) -> Damage:
    """A change of any file of a folder of ours."""

    def damage(folder: Path, draw: random.Random) -> list[str]:
        path = draw.choice(sorted(folder.iterdir()))
        change(path, draw)
        return [path.name]

    return damage


def swapped_shards(folder: Path, draw: random.Random) -> list[str]:
    one, other = draw.sample(shards(folder), 2)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return [one.name, other.name]


def index_to_a_missing_file(folder: Path, draw: random.Random) -> list[str]:
    index = json.loads((folder / INDEX).read_text())
    name = draw.choice(sorted(index["weight_map"]))
    index["weight_map"][name] = f"model-{draw.randrange(50, 99):05}-of-00099.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    return [INDEX, index["weight_map"][name], name]


def index_to_another_shard(folder: Path, draw: random.Random) -> list[str]:
    index = json.loads((folder / INDEX).read_text())
    name = draw.choice(sorted(index["weight_map"]))
    index["weight_map"][name] = draw.choice(sorted(set(index["weight_map"].values()) - {index["weight_map"][name]}))
    (folder / INDEX).write_text(json.dumps(index))
    return [INDEX, name]


def cut_json(folder: Path, draw: random.Random) -> list[str]:
    path = folder / draw.choice(["config.json", INDEX])
    damages.truncate(path, draw)
    return [path.name]


def another_size_in_the_config(folder: Path, draw: random.Random) -> list[str]:
    """One of the numbers that shapes follow from."""
    config = json.loads((folder / "config.json").read_text())
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "patch_size", "image_size")
    places = [(part, key) for part in ("text_config", "vision_config") for key in keys if key in config[part]]
    part, key = draw.choice(places)
    config[part][key] = draw.choice([n for n in range(1, 2 * config[part][key] + 2) if n != config[part][key]])
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return ["config.json", *(name for shard in shards(folder) for name in load_file(shard))]


def another_class_in_the_config(folder: Path, draw: random.Random) -> list[str]:
    config = json.loads((folder / "config.json").read_text())
    key = draw.choice(["model_type", "architectures"])
    wrong = "".join(draw.sample("abcdefghij", 6))
    config[key] = wrong if key == "model_type" else [wrong]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return ["config.json"]


def no_number(folder: Path, draw: random.Random) -> list[str]:
    """NaN or infinity in place of one number."""
    path = draw.choice(shards(folder))
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    flat = tensors[name].view(-1)
    flat[draw.randrange(len(flat))] = draw.choice([torch.nan, torch.inf, -torch.inf])
    save_file(tensors, path, metadata={"format": "pt"})
    return [name]


def flipped_config(folder: Path, draw: random.Random) -> list[str]:
    damages.flip(folder / "config.json", draw)
    return ["config.json"]


OURS: dict[str, Damage] = {
    "truncated": on_any_file(damages.truncate),
    "bytes appended": on_any_file(damages.append),
    "bit flipped in a header": on_a_shard(damages.flip_header),
    "bit flipped in the weights": on_a_shard(damages.flip_payload),
    "bit flipped in any file": on_any_file(damages.flip),
    "swapped shards": swapped_shards,
    "missing file": on_any_file(damages.drop),
    "config edited": another_size_in_the_config,
    "index to a missing file": index_to_a_missing_file,
    "index to another shard": index_to_another_shard,
}
ELSEWHERE: dict[str, Damage] = {
    "truncated shard": on_a_shard(damages.truncate),
    "bytes appended to a shard": on_a_shard(damages.append),
    "bit flipped in a header": on_a_shard(damages.flip_header),
    "swapped shards": swapped_shards,
    "missing shard": on_a_shard(damages.drop),
    "index to a missing file": index_to_a_missing_file,
    "index to another shard": index_to_another_shard,
    "config or index cut": cut_json,
    "size in the config edited": another_size_in_the_config,
    "class in the config edited": another_class_in_the_config,
    "NaN or infinity in the weights": no_number,
}
UNKNOWABLE: dict[str, Damage] = {
    "bit flipped in the weights": on_a_shard(damages.flip_payload),
    "bit flipped in the config": flipped_config,
}


def verify(folder: Path) -> None:
    """Both ways in which a folder of ours is met; raises what the first says where both refuse it."""
    with suppress(TriptychError):
        open_folder(folder)
        return
    artifact.verify(folder)


def compress(folder: Path) -> None:
    """The whole command on a folder from elsewhere."""
    wanted = HubRequest(model=folder, data=folder.parents[1] / "data", out=folder.parent / "out", rows=4, check=0)
    compress_folder(wanted, command="triptych compress model --data data --out out")


def trials(whole: Path, kinds: dict[str, Damage], count: int, meet: Callable[[Path], None]) -> list[dict[str, Any]]:
    """So many damages, kind after kind; how each was met."""
    draw, found = random.Random(0), []  # noqa: S311 - damages, not secrets
    with console.progress(f"damage {whole.name}", count, unit="trial") as advance:
        for number in range(count):
            kind = list(kinds)[number % len(kinds)]
            place = whole.parent / "trial"
            shutil.copytree(whole, place / whole.name)
            names = kinds[kind](place / whole.name, draw)
            outcome, said = "accepted", ""
            try:
                with console.muted():
                    meet(place / whole.name)
            except TriptychError as error:
                said = str(error)
                outcome = "refused by name" if any(name in said for name in names) else "refused"
            except Exception as error:  # noqa: BLE001 - what nobody foresaw is what is looked for
                outcome, said = "crashed", repr(error)
            found.append({"kind": kind, "outcome": outcome, "said": said.replace(str(place), "")[:300]})
            shutil.rmtree(place)
            advance(1)
    return found


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Outcomes by kind, and what was said where a damage was refused, but not by name, or ended in a traceback."""
    kinds = {t["kind"]: dict(Counter(o["outcome"] for o in found if o["kind"] == t["kind"])) for t in found}
    return {
        "trials": len(found),
        "outcomes": dict(Counter(t["outcome"] for t in found)),
        "kinds": kinds,
        "others": [t for t in found if t["outcome"] in {"refused", "crashed"}],
    }


def main() -> None:
    """All damages of both kinds of folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--trials", type=int, default=1000, help="of each kind of folder; a fifth of that are unknowable"
    )
    asked = parser.parse_args()
    write.SHARD_BYTES = SHARD_BYTES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, "llava", shard_bytes=SHARD_BYTES)
        wanted = HubRequest(model=folder / "model", data=folder / "data", out=folder / "small", rows=4, check=0)
        compress_folder(wanted, command="triptych compress model --data data --out small")
        found = {
            "ours": summary(trials(folder / "small", OURS, asked.trials, verify)),
            "elsewhere": summary(trials(folder / "model", ELSEWHERE, asked.trials, compress)),
            "unknowable": summary(trials(folder / "model", UNKNOWABLE, asked.trials // 5, compress)),
        }
    record.write("damage", found)
    console.say(f"{ {name: part['outcomes'] for name, part in found.items()} }")


if __name__ == "__main__":
    main()
