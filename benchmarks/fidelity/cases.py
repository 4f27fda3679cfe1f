"""What fidelity is measured on: calibration and test inputs of each small model, and how far another model is off.

    original = cases.load("vlm")
    compressed = ...(original, cases.calibration("vlm", seed=0))
    cases.score("vlm", compressed)    {"accuracy": , "kl": , "flips": , ...}

`kl` is the mean over all answers of KL(original || model) in nats, `flips` the share of answers whose first choice
changed (Dutta et al., Accuracy is Not All You Need, 2024). An answer is VQA's answer token, each letter of a transcript
given those before, or a photo's (and a caption's) distribution over the test captions (photos).
"""

import hashlib
import shutil
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchmetrics.functional.text import char_error_rate, word_error_rate

from benchmarks.fidelity import clip, outliers, vlm, whisper
from benchmarks.fidelity.samples import Sample, batches, read_samples, write_samples
from benchmarks.fidelity.training import FOLDER

NAMES = ("vlm", "whisper", "clip")
MODULES: dict[str, Any] = {"vlm": vlm, "whisper": whisper, "clip": clip}
SAMPLES = 128
QUESTIONS, PHOTOS, ROWS = 1000, 1000, 50  # of the test sets; rows in a batch

Answers = dict[str, Tensor]


def folder(name: str) -> Path:
    """The trained model's Hugging Face folder."""
    found: Path = MODULES[name].train()
    return found


def load(name: str) -> Any:
    """The trained model, in float32."""
    return MODULES[name].load()


def calibration(name: str, seed: int = 0, count: int = SAMPLES) -> list[Sample]:
    """Forward inputs of training samples, one a dictionary, none padded; see `batches` to join those of equal shape."""
    path = calibration_file(name, seed, count)
    if not path.exists():
        rows = MODULES[name].rows("train")
        chosen = np.random.default_rng(seed).permutation(len(rows))[:count].tolist()
        write_samples(path, [one(name, "train", place) for place in chosen])
    return read_samples(path)


def calibration_file(name: str, seed: int = 0, count: int = SAMPLES) -> Path:
    """Where `calibration` keeps them, for environments that read them with `samples.read_samples`."""
    return FOLDER / "calibration" / f"{name}-{seed}-{count}.safetensors"


def one(name: str, split: str, place: int) -> Sample:
    """The forward inputs of one row."""
    row = MODULES[name].rows(split)[place]
    if name == "vlm":
        return vlm.asked([row], split)
    if name == "whisper":
        return {"input_features": whisper.heard([row[0]]), "decoder_input_ids": whisper.spelled([row[1]])[0]}
    return {"pixel_values": clip.pixels([clip.photos(split)[place]]), **clip.read([row[1][0]])}


@cache
def test(name: str) -> tuple[list[Sample], list[Any]]:
    """Batches of test inputs, and what is right: answer tokens, transcripts, or nothing (the n-th goes with the n-th)."""
    if name == "vlm":
        chosen = np.random.default_rng(0).permutation(len(vlm.rows("test")))[:QUESTIONS]
        rows = sorted((vlm.rows("test")[place] for place in chosen), key=lambda row: len(vlm.ids(row[0])))
        lengths = [len(vlm.ids(question)) for question, _, _ in rows]
        cuts = [0, *(n for n in range(1, len(rows)) if lengths[n] != lengths[n - 1]), len(rows)]
        pieces = [rows[n : min(n + ROWS, b)] for a, b in pairwise(cuts) for n in range(a, b, ROWS)]
        return [vlm.asked(piece, "test") for piece in pieces], [vlm.ids(answer)[0] for _, answer, _ in rows]
    if name == "whisper":
        spoken = sorted(whisper.rows("test"), key=lambda row: len(row[1]))
        parts = [spoken[n : n + ROWS] for n in range(0, len(spoken), ROWS)]
        return [
            {
                "input_features": whisper.heard([features for features, _ in part]),
                "decoder_input_ids": whisper.spelled([text for _, text in part])[0],
            }
            for part in parts
        ], [text for _, text in spoken]
    shown = [
        {
            "pixel_values": clip.pixels(clip.photos("test")[n : n + ROWS]),
            **clip.read([captions[0] for _, captions in clip.rows("test")[n : n + ROWS]]),
        }
        for n in range(0, PHOTOS, ROWS)
    ]
    return shown, []


@torch.no_grad()
def answers(name: str, model: Callable[..., Any]) -> Answers:
    """All test answers of a model, as scores: "answers choices"."""
    inputs, right = test(name)
    if name == "vlm":
        return {"scores": torch.cat([model(**batch).logits[:, -1] for batch in inputs])}
    if name == "whisper":
        labels = [whisper.spelled(right[n : n + ROWS])[1] for n in range(0, len(right), ROWS)]
        scores = [model(**batch).logits for batch in inputs]
        kept = [s[label != whisper.IGNORED] for s, label in zip(scores, labels, strict=True)]
        return {"scores": torch.cat(kept), "right": torch.cat([x[x != whisper.IGNORED] for x in labels])}
    found = [model(**batch) for batch in inputs]
    images, captions = (torch.cat([out[k] for out in found]) for k in ("image_embeds", "text_embeds"))
    similarity = images @ captions.T * load(name).logit_scale.exp()
    return {"scores": torch.cat([similarity, similarity.T])}


def reference(name: str) -> Answers:
    """The original's answers, kept on disk for the model they came from."""
    print_ = hashlib.sha256((folder(name) / "model.safetensors").read_bytes()).hexdigest()[:12]
    path = FOLDER / "reference" / f"{name}-{print_}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in answers(name, load(name)).items()}, path)
    return load_file(path)


def score(name: str, model: Any) -> dict[str, float]:
    """The task's metric, the mean KL from the original in nats, and the share of flipped answers."""
    found, wanted = answers(name, model), reference(name)["scores"]
    ours, theirs = (scores.double().log_softmax(-1) for scores in (found["scores"], wanted))
    return {
        **task(name, model, found),
        "kl": float((theirs.exp() * (theirs - ours)).sum(-1).mean()),
        "flips": float((found["scores"].argmax(-1) != wanted.argmax(-1)).double().mean()),
        "answers": len(wanted),
    }


def task(name: str, model: Any, found: Answers) -> dict[str, float]:
    """Accuracy; letter and word error rates; or recall among the first 1, 5 and 10, both ways."""
    inputs, right = test(name)
    if name == "vlm":
        return {"accuracy": float((found["scores"].argmax(-1) == torch.tensor(right)).double().mean())}
    if name == "whisper":
        said = [text for batch in inputs for text in whisper.transcribe(model, batch["input_features"])]
        return {
            "cer": float(char_error_rate(said, right)),
            "wer": float(word_error_rate(said, right)),
            "token_accuracy": float((found["scores"].argmax(-1) == found["right"]).double().mean()),
        }
    scores = found["scores"].unflatten(0, (2, -1))
    own = scores.diagonal(dim1=1, dim2=2)
    rank = (scores > own[..., None]).sum(-1).double()
    ways = ("image_to_text", "text_to_image")
    return {f"{way}_r{k}": float((rank[n] < k).double().mean()) for n, way in enumerate(ways) for k in (1, 5, 10)}


def with_outliers(name: str, factor: float = 20.0, share: float = 0.01, seed: int = 0) -> nn.Module:
    """The trained model with outliers in its activations, answering as before."""
    return outliers.with_outliers(load(name), batches(calibration(name), 4)[0], factor, share, seed)


def outlier_folder(name: str, factor: float = 20.0, share: float = 0.01, seed: int = 0) -> Path:
    """`with_outliers` as a Hugging Face folder of its own, with tokenizer and processor."""
    made = FOLDER / f"{name}-outliers-{factor:g}-{share:g}-{seed}"
    if not made.exists():
        stage = FOLDER / f".{made.name}"
        shutil.copytree(folder(name), stage, dirs_exist_ok=True)
        with_outliers(name, factor, share, seed).save_pretrained(stage)
        stage.rename(made)
    return made
