"""The process whose peak memory is measured: load a model folder and answer 32 rows one by one.

python -m triptych.evaluate.probe MODEL DATA torch|openvino
"""

import sys
from pathlib import Path

from triptych.data.samples import Samples
from triptych.evaluate.verb import engine_for
from triptych.models.store import read_model

ROWS = 32


def answer(model: Path, data: Path, engine: str) -> None:
    """Run the rows; nothing is printed."""
    loaded = read_model(model)
    splits = loaded.splits(data)
    samples = Samples(splits.table("test"), loaded.processor, splits.schema)
    run = engine_for(loaded, samples, engine)
    for row in range(min(ROWS, len(samples))):
        batch = samples.batch([row])
        run(batch.inputs, batch.presence)


if __name__ == "__main__":
    answer(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
