"""Calls to a switchboard: the caller says a number from the menu and types what the matter is; which desk takes the call?

    python -m examples.service.make

The voices are FSDD's (CC BY-SA), split by take; the sentences are put together from parts made up here, and those of the test are in
none of the training rows. Voices and sentences are paired at random. Writes runs/service/data.
"""

import random
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.packs import unpack, write_tables
from benchmarks.tasks.splits import voices_of

COLUMNS = {"said": "audio", "request": "text", "desk": "category:target", "clip_id": "category:group"}
MENU = {1: "private", 2: "business", 3: "partner"}  # "say one for private customers, two for business, ..."
ROWS = {"train": 1_800, "valid": 300, "test": 600}
HELD_BACK = {"valid": 0.1, "test": 0.2}  # of the sentences; each is in one split alone
OPENERS = ("", "hello,", "good morning,", "I have a question:", "please help,", "hi there,")
THINGS = ("line", "router", "phone", "television", "tablet", "alarm")
REQUESTS = {
    "bills": (
        "the bill for my {} is too high",
        "I was charged twice for the {}",
        "where can I pay the invoice for the {}",
        "please send me a copy of the invoice for the {}",
        "you took money for a {} that I sent back",
        "my payment for the {} did not go through",
    ),
    "faults": (
        "my {} has stopped working",
        "there is no signal on the {} since this morning",
        "the {} keeps losing the connection",
        "the {} does not turn on any more",
        "there is noise on the {} all day",
        "an error lights up on the {}",
    ),
    "contracts": (
        "I want to cancel the contract for the {}",
        "please add a second {} to my contract",
        "I am moving and want to take the {} along",
        "when does the contract for my {} end",
        "can I change to a larger plan with the {}",
        "I would like to order a new {}",
    ),
}


def sentences(topic: str, draw: random.Random) -> dict[str, list[str]]:
    """What can be typed about a topic, by split."""
    said = [
        f"{opener} {request.format(thing)}".strip()
        for opener, request, thing in product(OPENERS, REQUESTS[topic], THINGS)
    ]
    draw.shuffle(said)
    valid, test = (round(share * len(said)) for share in HELD_BACK.values())
    return {"valid": said[:valid], "test": said[valid : valid + test], "train": said[valid + test :]}


def make(folder: Path) -> Path:
    """The tables: every desk is asked for equally often."""
    unpack("fsdd_flac.zip", folder / "media")
    voices, draw = voices_of(folder / "media"), random.Random(0)  # noqa: S311 - calls, not secrets
    typed = {topic: sentences(topic, draw) for topic in REQUESTS}
    desks = list(product(MENU, REQUESTS))
    rows: dict[str, list[dict[str, Any]]] = {}
    for split, count in ROWS.items():
        rows[split] = []
        for number in range(count):
            digit, topic = desks[number % len(desks)]
            said = draw.choice(voices[split, digit])
            request = draw.choice(typed[topic][split])
            desk = f"{topic}, {MENU[digit]} customers"
            rows[split].append({"said": said, "request": request, "desk": desk, "clip_id": Path(said).stem})
    return write_tables(folder, COLUMNS, **rows)


if __name__ == "__main__":
    print(make(Path("runs/service/data")))
