"""Ways to damage a file, for tests and the benchmark: each takes its path and where to draw from."""


def truncate(path, rng):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def append(path, rng):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 100)))


def flip(path, rng, low=0, high=None):
    content = bytearray(path.read_bytes())
    content[rng.randrange(low, high or len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def flip_header(path, rng):
    flip(path, rng, high=8 + int.from_bytes(path.read_bytes()[:8], "little"))


def flip_payload(path, rng):
    flip(path, rng, low=8 + int.from_bytes(path.read_bytes()[:8], "little"))


def zero_page(path, rng):
    content = bytearray(path.read_bytes())
    start = 4096 * rng.randrange(1, len(content) // 4096)
    content[start : start + 4096] = bytes(4096)
    path.write_bytes(content)


def drop(path, rng):
    path.unlink()


def edit(path, rng):
    text = path.read_text()
    digits = [i for i, letter in enumerate(text) if letter.isdigit()]
    place = rng.choice(digits)
    path.write_text(text[:place] + str((int(text[place]) + rng.randrange(1, 10)) % 10) + text[place + 1 :])


def replace_by_link(path, rng):
    path.rename(path.parent.parent / "moved")
    path.symlink_to(path.parent.parent / "moved")
