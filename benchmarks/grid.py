"""Every encoder with every fusion on the bundled task: accuracy, parameters, milliseconds, minutes to train.

All three modalities use the encoder of the row. The same steps, batch and learning rate for all; nothing is tuned by row.
"""

from benchmarks import record
from benchmarks.odd_one_out import data, measured, recipe
from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.models.make import make_model
from triptych.recipe import InputSettings
from triptych.train.loop import train

STEPS = 200
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
    "bilinear": {"name": "bilinear", "rank": 256, "window": 32, "vectors": False},
}


def main() -> None:
    """Train and measure all of them on cells that are decoded once; each finished row is kept, so that a stopped run continues."""
    rows = record.read("grid").get("rows", [])
    done = {(row["encoder"], row["fusion"]) for row in rows}
    wanted = recipe(data(), steps=STEPS)
    splits = read_splits(data())
    features = {name: i.features for name, i in wanted.model.inputs.items()}
    processor = Processor.fit(splits.table("train"), splits.schema, features)
    train_rows, valid, test = (Samples(splits.table(n), processor, splits.schema) for n in ("train", "valid", "test"))
    for encoder, settings in SMALL.items():
        inputs = {
            name: InputSettings(features=features[name], encoder=chosen)
            for name, chosen in zip(features, settings, strict=True)
        }
        for fusion, mixing in FUSIONS.items():
            if (encoder, fusion) in done:
                continue
            chosen = wanted.model.model_copy(update={"inputs": inputs, "fusion": {**mixing, "width": 128}})
            model = make_model(chosen, processor, train_rows.labels, 0)
            trained = train(model, train_rows, valid, wanted.train, label=f"{encoder}, {fusion}")
            rows.append(
                {"encoder": encoder, "fusion": fusion, "minutes": trained.seconds / 60, **measured(model, test)}
            )
            record.write("grid", {"steps": STEPS, "rows": rows})


if __name__ == "__main__":
    main()
