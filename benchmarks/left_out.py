"""The bundled task with one speaker left out of training altogether, tested on that speaker's clips and unseen photos."""

from benchmarks import record
from benchmarks.odd_one_out import data, held_out, measured, recipe, trained

SPEAKERS = ("theo",)


def main() -> None:
    """Train once a speaker."""
    rows = []
    for speaker in SPEAKERS:
        model, minutes = trained(f"without-{speaker}", recipe(data(speaker)))
        rows.append(
            {"speaker": speaker, "minutes": minutes, **measured(model.loaded.model, held_out(model, "left_out"))}
        )
        record.write("left_out", {"rows": rows})


if __name__ == "__main__":
    main()
