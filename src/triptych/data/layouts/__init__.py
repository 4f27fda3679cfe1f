"""The layouts that data sets come in, one file each, told apart by what a path holds.

Captions are rows of `image`, `caption`, `image_id`; boxes rows of `image`, `boxes`, `image_id`; speech rows of `audio`, `transcript`,
`speaker`; masks rows of `image`, `mask`; classes rows of `file`, `label`.
"""

from pathlib import Path

from triptych.data.layouts import coco, flickr, kaldi, masks, split_folders, timit, voc
from triptych.data.table import Table

LAYOUTS = (kaldi, timit, voc, coco, flickr, masks, split_folders)


def read_layout(path: Path) -> dict[str, Table] | None:
    """The tables of a data set by split; one under "" where nothing says which rows are whose; None for no known layout.

    Raises:
        InputError: the layout is clear, and something in it is missing or cannot be read.
    """
    for layout in LAYOUTS:
        tables = layout.read(path)
        if tables:
            return tables
    return None
