"""A report such as a run writes: a classifier of image, sound and text, compressed on a small machine."""

import io
from base64 import b64encode
from typing import Any

import numpy as np
import pytest
import soundfile

from triptych.report.media import picture_uri, sound_uri
from triptych.report.schema import Report

WORDS = [
    "the bell rings twice",
    "a dog behind the fence",
    "rain on a tin roof",
    "someone laughs far away",
    "no, the other one",
]
CLASSES = ["bell", "dog", "rain", "laughter", "siren"]


def _scene(seed: int) -> np.ndarray:
    """Two soft discs on a plain ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:120, 0:160]
    pixels = np.ones((120, 160, 3)) * rng.uniform(0.55, 0.95, 3)
    for _ in range(2):
        middle, radius, colour = rng.uniform([20, 20], [140, 100]), rng.uniform(15, 35), rng.uniform(0.1, 0.9, 3)
        inside = np.clip(radius - np.hypot(x - middle[0], y - middle[1]), 0, 1)[..., None]
        pixels = pixels * (1 - inside) + colour * inside
    return (255 * pixels).astype(np.uint8)


def _tone(seed: int) -> np.ndarray:
    t = np.arange(4000) / 8000
    return (0.3 * np.sin(2 * np.pi * (220 + 40 * seed) * t) * np.exp(-4 * t)).astype(np.float32)


def ogg_uri(seed: int) -> str:
    file = io.BytesIO()
    soundfile.write(file, _tone(seed), 8000, format="OGG", subtype="VORBIS")
    return f"data:audio/ogg;base64,{b64encode(file.getvalue()).decode()}"


def _worst() -> list[dict[str, Any]]:
    samples = []
    for i in range(10):
        truth = CLASSES[i % 5]
        sound = None if i == 3 else ogg_uri(i) if i % 2 else sound_uri(_tone(i), 8000)
        fields = [
            {"name": "picture", "kind": "image", "value": picture_uri(_scene(i))},
            {"name": "sound", "kind": "audio", "value": sound},
            {"name": "caption", "kind": "text", "value": WORDS[i % 5]},
        ]
        before = {"label": truth if i < 7 else CLASSES[(i + 2) % 5], "probability": 0.93 - 0.05 * i}
        after = {"label": CLASSES[(i + 1) % 5], "probability": 0.51 + 0.03 * i}
        samples.append(
            {
                "place": f"test.csv, line {17 + 31 * i}",
                "fields": fields,
                "truth": truth,
                "before": before,
                "after": after,
            }
        )
    return samples


def _plan() -> list[dict[str, Any]]:
    layers = []
    stacks = [
        ("image", "encoders.image.stages.{}.conv", (64, 576)),
        ("sound", "encoders.sound.stages.{}.conv", (48, 432)),
    ]
    stacks += [("text", "encoders.text.blocks.{}.mlp.up", (512, 128)), ("fusion", "fusion.blocks.{}.q", (192, 192))]
    for component, pattern, (rows, columns) in stacks:
        for i in range(4):
            after = (rows - 16, columns) if i == 2 else (rows, columns)
            layers.append(
                {
                    "name": pattern.format(i),
                    "component": component,
                    "shape_before": (rows, columns),
                    "shape_after": after,
                    "scheme": "int4 weights, groups of 64" if component == "text" else "int8 weights and activations",
                    "bits": 4.25 if component == "text" else 8,
                    "method": "GPTQ" if component == "text" else "round to nearest",
                    "sqnr_db": 21.4 + i if component == "text" else 38.2 + i,
                    "bytes_before": 4 * rows * columns,
                    "bytes_after": after[0] * columns // (2 if component == "text" else 1),
                    "why": "16 of its channels carried 0.2% of the importance" if i == 2 else "",
                }
            )
    last = {
        "name": "head.linear",
        "component": "head",
        "shape_before": (5, 192),
        "shape_after": (5, 192),
        "scheme": "float32",
    }
    return [*layers, {**last, "bits": 32, "bytes_before": 3840, "bytes_after": 3840, "why": "too small to be worth it"}]


def _components() -> list[dict[str, Any]]:
    rows = [
        ("image encoder", "encoder", ["image"], 6_120_000, 24_480_000, 3_110_000, 0.58, "int8 weights and activations"),
        (
            "sound encoder",
            "encoder",
            ["audio"],
            2_870_000,
            11_480_000,
            1_420_000,
            0.27,
            "int8, 12 of 48 channels removed",
        ),
        ("text encoder", "encoder", ["text"], 1_640_000, 6_560_000, 930_000, 0.06, "int4 weights in groups of 64"),
        ("fusion", "fusion", ["image", "audio", "text"], 641_000, 2_564_000, 660_000, 0.08, "int8 weights"),
        (
            "head",
            "head",
            ["image", "audio", "text"],
            965,
            3_860,
            3_860,
            0.01,
            "left as it is: too small to be worth it",
        ),
    ]
    keys = ("name", "role", "modalities", "parameters", "bytes_before", "bytes_after", "latency_share", "decision")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def report_data() -> dict[str, Any]:
    before = {"all": 0.924, "without": {"image": 0.612, "audio": 0.538, "text": 0.871}}
    before["shuffled"] = {"image": 0.571, "audio": 0.502, "text": 0.858}
    after = {"all": 0.921, "without": {"image": 0.61, "audio": 0.536, "text": 0.8684}}
    after["shuffled"] = {"image": 0.566, "audio": 0.504, "text": 0.857}
    engines = [
        ("PyTorch 2.13", "float32", "original", 41.3, 44.8, 1.0),
        ("OpenVINO 2026.0", "float32", "original", 23.6, 25.1, 1.75),
        ("OpenVINO 2026.0", "int8 and int4", "compressed", 10.1, 11.9, 4.089),
    ]
    curve = [("before", 45_087_860, 41.3, 0.924, (0.908, 0.939)), ("all int4", 5_700_000, 9.4, 0.861, (0.839, 0.88))]
    curve += [
        ("int4 text, int8 rest", 6_450_000, 10.6, 0.9, (0.881, 0.917)),
        ("after", 6_123_860, 10.1, 0.921, (0.904, 0.936)),
    ]
    attempts = [
        ("all int4", 5_700_000, 9.4, 0.932, (0.91, 0.951), "audio", "broken", "the sound encoder goes back to int8"),
        (
            "int4 text, int8 rest",
            6_450_000,
            10.6,
            0.974,
            (0.961, 0.985),
            "audio",
            "broken",
            "distilled for one more epoch",
        ),
        ("int8, 12 channels fewer", 6_123_860, 10.1, 0.9968, (0.991, 1.002), "text", "kept", "taken"),
    ]
    return {
        "schema": 1,
        "title": "Odd one out: image, sound and words",
        "before": {
            "bytes": 45_087_860,
            "parameters": 11_271_965,
            "latency_ms": {"p50": 41.3, "p95": 44.8},
            "peak_memory_bytes": 612_000_000,
            "engine": "PyTorch",
            "quality": {"metric": "accuracy", **before},
        },
        "after": {
            "bytes": 6_123_860,
            "parameters": 9_040_000,
            "latency_ms": {"p50": 10.1, "p95": 11.9},
            "peak_memory_bytes": 188_000_000,
            "engine": "OpenVINO",
            "quality": {"metric": "accuracy", **after},
        },
        "contract": {
            "keep": 0.99,
            "kept": 0.9968,
            "interval": (0.9912, 1.0021),
            "per_modality": {
                "image": {"keep": 0.99, "kept": 0.9968, "interval": (0.9921, 1.0103)},
                "audio": {"keep": 0.99, "kept": 0.9974, "interval": (0.9917, 1.0089)},
                "text": {"keep": 0.99, "kept": 0.9925, "interval": (0.9902, 1.0214)},
            },
            "verdict": "kept",
            "confidence": 0.95,
        },
        "components": _components(),
        "environment": {
            "cpu": "AMD EPYC 9R14, 2 cores",
            "threads": 2,
            "versions": {"triptych": "0.1.0", "torch": "2.13.0", "openvino": "2026.0.0", "python": "3.11.7"},
        },
        "data": {"rows": 1200, "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        "seconds": 1384.2,
        "command": "triptych compress runs/demo/model --data test.csv --size 15% --keep 99% --out runs/demo/small",
        "plan": _plan(),
        "curve": [
            dict(zip(("label", "bytes", "latency_ms", "quality", "interval"), row, strict=True)) for row in curve
        ],
        "attempts": [
            dict(zip(("label", "bytes", "latency_ms", "kept", "interval", "worst", "verdict", "why"), row, strict=True))
            for row in attempts
        ],
        "engines": [
            {"engine": e, "precision": p, "model": m, "latency_ms": {"p50": p50, "p95": p95}, "ratio": r}
            for e, p, m, p50, p95, r in engines
        ],
        "worst": _worst(),
        "training": [
            {"step": 40 * e, "loss": 1.6 * 0.87**e + 0.1, "quality": 0.924 - 0.7 * 0.83**e} for e in range(31)
        ],
        "checks": [
            {"name": "At most 15% of the bytes", "goal": "15%", "value": "13.6%", "passed": True},
            {"name": "Twice as fast in the same engine", "goal": "2.00\u00d7", "value": "2.34\u00d7", "passed": True},
            {"name": "Answers agree with the original", "goal": "98%", "value": "97.4%", "passed": False},
        ],
        "measured": ["Latency is one sample at a time, 50 calls after 10 to warm up, original and compressed in turn."],
        "notes": ["The text encoder's position table is shared and was left as it is."],
    }


@pytest.fixture
def data() -> dict[str, Any]:
    return report_data()


@pytest.fixture
def report(data: dict[str, Any]) -> Report:
    return Report.model_validate(data)
