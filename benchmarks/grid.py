"""Every encoder with every fusion on the bundled task: accuracy, parameters, milliseconds, minutes to train.

All three modalities use the encoder of the row. The same steps, batch and learning rate for all; nothing is tuned by row.
"""

from benchmarks import record
from benchmarks.odd_one_out import data, figures, recipe, trained
from triptych.recipe import InputSettings

STEPS = 400
SMALL = {
    "cnn": (
        {"name": "cnn", "stem": 24, "stem_kernel": 5, "stem_stride": 4, "widths": [48, 96, 192], "blocks": [1, 1, 1]},
    )
    * 2
    + ({"name": "cnn", "widths": [96, 192], "blocks": [1, 1]},),
    "rnn": ({"name": "rnn", "cell": "gru", "hidden": 96, "layers": 2},) * 3,
    "transformer": ({"name": "transformer", "width": 96, "heads": 4, "layers": 3, "feedforward": 192, "dropout": 0.0},)
    * 3,
    "rbf": ({"name": "rbf", "units": 128, "width": 128},) * 3,
}
FUSIONS = {
    "concat": {"name": "concat"},
    "mean": {"name": "mean"},
    "weighted": {"name": "weighted"},
    "gated": {"name": "gated"},
    "attention": {"name": "attention", "pool": "concat"},
    "bilinear": {"name": "bilinear", "rank": 128},
}


def main() -> None:
    """Train and measure all of them; each finished row is kept, so that a stopped run continues."""
    rows = record.read("grid").get("rows", [])
    done = {(row["encoder"], row["fusion"]) for row in rows}
    source = data()
    for encoder, settings in SMALL.items():
        for fusion, mixing in FUSIONS.items():
            if (encoder, fusion) in done:
                continue
            wanted = recipe(source, steps=STEPS)
            inputs = {
                name: InputSettings(features=wanted.model.inputs[name].features, encoder=chosen)
                for name, chosen in zip(("photo", "voice", "word"), settings, strict=True)
            }
            changed = wanted.model.model_copy(update={"inputs": inputs, "fusion": {**mixing, "width": 128}})
            model, minutes = trained(f"{encoder}-{fusion}", wanted.model_copy(update={"model": changed}))
            rows.append({"encoder": encoder, "fusion": fusion, "minutes": minutes, **figures(model)})
            record.write("grid", {"steps": STEPS, "rows": rows})


if __name__ == "__main__":
    main()
