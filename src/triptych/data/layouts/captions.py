"""What is said of pictures: a row a sentence as COCO and Flickr list them, or a row a picture with all its sentences, one a line."""

from triptych.data.cells import has_words
from triptych.data.table import Table, counted, table_of

CAPTION = "caption"
KINDS = {"image": "image:input", CAPTION: "text:target", "image_id": "category:group"}


def one_row_a_picture(table: Table) -> Table:
    """The captions of each picture in one cell, any of which is right to write; without words are none but where there is no other.

    A row is named by the place of its picture's first caption.
    """
    if CAPTION not in table.kinds:
        return table
    told: dict[str, list[int]] = {}
    for i, image in enumerate(table.column("image")):
        told.setdefault(image, []).append(i)
    captions = table.column(CAPTION)
    said = {image: [i for i in rows if has_words(captions[i] or "")] for image, rows in told.items()}
    silent = [i for image, rows in told.items() for i in rows if said[image] and i not in said[image]]
    notes = table.notes
    if silent:
        notes += (f"{table.places(silent)}: {counted(len(silent), 'caption')} without a word left out.",)
    first = [rows[0] for rows in told.values()]
    cells = [
        "\n".join(captions[i] for i in said[image] or rows[:1] if captions[i]) or None for image, rows in told.items()
    ]
    columns: dict[str, list[str | None]] = {
        "image": list(told),
        CAPTION: cells,
        "image_id": [table.column("image_id")[i] for i in first],
    }
    numbers = [table.numbers[i] for i in first]
    return table_of(columns, KINDS, root=table.root, source=table.source, numbers=numbers, unit=table.unit, notes=notes)
