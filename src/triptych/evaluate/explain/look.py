"""Where in one field a model found its answers: a map over a picture or a spectrogram, a weight for each token of a text."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from triptych.evaluate.explain.attention import rollout
from triptych.evaluate.explain.attributions import token_attributions
from triptych.evaluate.explain.gradcam import Gradients, gradcam
from triptych.evaluate.explain.grids import Grid, find_grid
from triptych.evaluate.explain.subject import Subject


@dataclass(frozen=True)
class Look:
    """Of every row; what a kind of field or an encoder does not have is None.

    Attributes:
        grid: of the maps.
        heat: what speaks for the answer, over a picture or a spectrogram.
        tokens: what speaks for (above 0) or against it in a text.
        attention: from where attention flowed, over the grid or the tokens.
    """

    grid: Grid | None = None
    heat: Float[Tensor, "rows height width"] | None = None
    tokens: Float[Tensor, "rows tokens"] | None = None
    attention: Float[Tensor, "rows *places"] | None = None


def look(subject: Subject, name: str, gradients: Gradients = "own") -> Look:
    """Everything that can be seen in one field; `gradients` are those of `gradcam`."""
    kind = subject.kind(name)
    if not subject.batch.presence[:, subject.model.fields.index(name)].any():
        return Look()
    if kind == "text":
        return Look(tokens=token_attributions(subject, name), attention=rollout(subject, name))
    grid = find_grid(subject, name) if kind in ("image", "audio") else None
    if grid is None:
        return Look()
    flow = rollout(subject, name)
    if flow is not None and flow.shape[1] == grid.skipped + grid.rows * grid.columns:
        flow = flow[:, grid.skipped :].unflatten(1, (grid.rows, grid.columns))
    else:
        flow = None
    return Look(grid=grid, heat=gradcam(subject, name, grid, gradients), attention=flow)
