"""A page of twenty test photos, evenly spaced: what the captioner says, what the compressed one says, what people said, and where the
recurrent decoder looked at each word.

    python -m benchmarks.tasks.captioner [RECIPE]

Writes runs/tasks/RECIPE/captions.html, after `python -m benchmarks.tasks.run RECIPE`.
"""

import sys
from html import escape

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from benchmarks.tasks.tables import WORK
from triptych.data.batch import Batch
from triptych.data.decode import decode_image
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.decoders.rnn import RNNDecoder
from triptych.engines.torch import TorchEngine
from triptych.models.fusion_model import FusionModel
from triptych.models.store import read_model
from triptych.report.media import picture_uri

PHOTOS = 20
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
article { display: grid; grid-template-columns: 240px 1fr; gap: 0 1.5rem; padding: 1.5rem 0; border-top: 1px solid #ddd }
article > img { width: 240px; border-radius: 4px } dl { margin: 0 } dt { color: #777; font-size: .85rem } dd { margin: 0 0 .6rem }
.looked { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: .5rem; margin-top: 1rem } figure { margin: 0; text-align: center }
figure img { width: 96px; display: block; border-radius: 3px } figcaption { font-size: .85rem }
"""


@torch.no_grad()
def looks(model: FusionModel, batch: Batch, ids: list[int]) -> list[Float[np.ndarray, "rows columns"]]:
    """For each written token, how much each place of the photo was looked at; none for other decoders."""
    decoder = model.task.decoder  # type: ignore[union-attr]
    if not isinstance(decoder, RNNDecoder):
        return []
    memory, _ = model.read(batch.inputs, batch.presence)
    state, before, found = decoder.start(*memory), torch.zeros(1, dtype=torch.int64), []
    side = round(state[1].shape[1] ** 0.5)
    for place, token in enumerate(ids):
        found.append(decoder.attention(state[0], state[2], state[3])[0].reshape(side, side).numpy())
        _, state = decoder.step(before, torch.tensor([place]), state)
        before = torch.tensor([token])
    return found


def lit(photo: UInt8[np.ndarray, "h w 3"], look: Float[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo, dark where nothing was looked at."""
    scaled = Image.fromarray((255 * look / look.max()).astype(np.uint8)).resize(
        photo.shape[1::-1], Image.Resampling.BICUBIC
    )
    return (photo * (0.15 + 0.85 * np.asarray(scaled)[..., None] / 255)).astype(np.uint8)


def main() -> None:
    """Write the page."""
    name = sys.argv[1] if len(sys.argv) > 1 else "captions"
    original, compressed = (read_model(WORK / name / part) for part in ("model", "compressed"))
    splits = read_splits(WORK / "captions" / "data")
    table = splits.table("test")
    samples = Samples(table, original.processor, splits.schema)
    cards = []
    for row in range(0, len(table), len(table) // PHOTOS)[:PHOTOS]:
        batch = samples.batch([row])
        ours, theirs = (TorchEngine(one.model)(batch.inputs, batch.presence) for one in (original, compressed))
        said, then = (one.model.task.answers(ids)[0]["answer"] for one, ids in ((original, ours), (compressed, theirs)))
        photo = decode_image(table.root / table.row(row)["photo"], table.place(row))
        ids = [int(token) for token in ours[0] if token]
        shown = zip(said.split(), looks(original.model, batch, ids), strict=False)
        looked = "".join(
            f'<figure><img src="{picture_uri(lit(photo, look), 96)}" alt=""><figcaption>{escape(word)}</figcaption></figure>'
            for word, look in shown
        )
        assert samples.labels is not None  # a test table has captions
        people = "<br>".join(escape(text) for text in original.model.task.truth(samples.labels[row]).splitlines())
        cards.append(
            f'<article><img src="{picture_uri(photo)}" alt=""><dl><dt>model</dt><dd>{escape(said)}</dd>'
            f"<dt>compressed</dt><dd>{escape(then)}</dd><dt>people</dt><dd>{people}</dd></dl>"
            f'<div class="looked">{looked}</div></article>'
        )
    page = f'<!doctype html><meta charset="utf-8"><title>Captions</title><style>{STYLE}</style><h1>Twenty photos of the test split</h1>'
    (WORK / name / "captions.html").write_text(page + "".join(cards), encoding="utf-8")
    print(WORK / name / "captions.html")


if __name__ == "__main__":
    main()
