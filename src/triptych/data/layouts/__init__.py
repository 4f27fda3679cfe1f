"""The layouts that data sets come in, one file each, told apart by what a path holds.

Captions are rows of `image`, `caption`, `image_id`; boxes rows of `image`, `boxes`, `image_id`; speech rows of `audio`, `transcript`,
`speaker`; masks rows of `image`, `mask`; classes rows of `file`, `label`.
"""

from functools import partial
from pathlib import Path

from triptych.data.layouts import coco, flickr, kaldi, masks, split_folders, timit, voc
from triptych.data.layouts.captions import CAPTION, one_row_a_picture
from triptych.data.table import Table


def read_layout(path: Path, target: str | None = None) -> dict[str, Table] | None:
    """The tables of a data set by split; one under "" where nothing says which rows are whose; None for no known layout.

    Args:
        path: of the data set.
        target: the column that is to be predicted, where somebody said so. Captions that are to be written are one row a picture, a
            line each; where they are read, to find pictures by them, they are a row each.

    Raises:
        InputError: the layout is clear, and something in it is missing or cannot be read.
    """
    written = target in (None, CAPTION)
    captions = (partial(coco.read, target=target), flickr.read)
    for read in (kaldi.read, timit.read, voc.read, *captions, masks.read, split_folders.read):
        tables = read(path)
        if tables:
            return {split: one_row_a_picture(table) if written else table for split, table in tables.items()}
    return None
