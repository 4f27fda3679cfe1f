"""What Triptych's training loop costs over a plain one, written by hand: same model, data, batches and steps.

The two take turns in short stretches, so that the machine's noise is shared; the ratio of each pair of stretches is one reading.
"""

import time

import numpy as np
import torch

from benchmarks import record
from benchmarks.odd_one_out import data, recipe
from triptych import console
from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.models.make import make_model
from triptych.train.loop import train
from triptych.train.settings import OptimizerSettings

STEPS, PAIRS, BATCH = 25, 8, 128


def main() -> None:
    """Measure and record."""
    wanted = recipe(data())
    splits = read_splits(data())
    features = {name: i.features for name, i in wanted.model.inputs.items()}
    processor = Processor.fit(splits.table("train"), splits.schema, features)
    rows = Samples(splits.table("train"), processor, splits.schema)
    few = Samples(splits.table("valid").take(range(BATCH)), processor, splits.schema)
    for start in range(0, len(rows), 1000):  # decode everything once, for both
        rows.batch(range(start, min(start + 1000, len(rows))))
    settings = wanted.train.model_copy(
        update={
            "steps": STEPS,
            "batch_size": BATCH,
            "modality_dropout": 0.0,
            "evaluate_every": 10**6,
            "augment_from": 0.0,
            "optimizer": OptimizerSettings(name="adamw", lr=1e-3),
        }
    )

    def ours() -> None:
        train(make_model(wanted.model, processor, rows.labels, 0), rows, few, settings)

    def plain() -> None:
        model = make_model(wanted.model, processor, rows.labels, 0)
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        order = torch.randperm(len(rows))
        generator = torch.Generator().manual_seed(0)
        model.train()
        for step in range(STEPS):
            batch = rows.batch(order[step * BATCH : (step + 1) * BATCH].tolist(), augment=True, generator=generator)
            loss = model(batch.inputs, batch.presence, labels=batch.labels).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.eval()
        batch = few.batch(range(BATCH))  # ours evaluates once at the end, so the plain loop does too
        with torch.no_grad():
            model(batch.inputs, batch.presence)

    def seconds(run: object) -> float:
        start = time.perf_counter()
        run()  # type: ignore[operator] # one of the two above
        return time.perf_counter() - start

    console.set_mode(quiet=True)
    seconds(ours), seconds(plain)
    pairs = [(seconds(ours), seconds(plain)) if i % 2 else (seconds(plain), seconds(ours))[::-1] for i in range(PAIRS)]
    ratios = np.array([a / b for a, b in pairs])
    low, median, high = np.percentile(ratios, [25, 50, 75])
    record.write(
        "overhead",
        {"steps": STEPS, "batch": BATCH, "pairs": pairs, "ratio": {"median": median, "low": low, "high": high}},
    )
    console.set_mode()
    console.say(f"ours over plain: {median:.3f} (middle half {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
