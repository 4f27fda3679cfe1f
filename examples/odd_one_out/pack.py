"""How photos.zip and voices.zip were made from the two public data sets. You need this only to make them again.

    python pack.py FOLDER_WITH_THE_ORIGINALS

The folder holds the originals as two archives:

- `signdigits_64.zip`: `<digit>/IMG_<number>.jpg`, 64 x 64, from https://github.com/ardamavi/Sign-Language-Digits-Dataset
- `fsdd_flac.zip`: `<digit>_<speaker>_<take>.flac`, 8 kHz, from https://github.com/Jakobovski/free-spoken-digit-dataset

Ogg streams carry a random serial number, so a second run gives other bytes in voices.zip that decode to the same sound.
"""

import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import soundfile
from PIL import Image

HERE = Path(__file__).parent
EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that the archive depends on the pictures alone

Photo = tuple[int, int, str]  # (camera number, digit, name in the archive)


def photos_in_order(archive: zipfile.ZipFile) -> list[Photo]:
    """Every photo, in the order in which the camera took them."""
    found = []
    for name in archive.namelist():
        path = PurePosixPath(name)
        if path.suffix == ".jpg":
            found.append((int(path.stem.removeprefix("IMG_")), int(path.parent.name), name))
    return sorted(found)


def signers(photos: list[Photo]) -> Iterator[list[Photo]]:
    """The photos of one signer after another.

    Signers are not named in the data, but each signed 0 to 9 in turn, so a digit smaller than the last one starts a new
    signer. A few signed out of order or one digit twice. Two runs are taken for one signer if they share no digit, or
    if the first is too short and the second does not start at 0: joining two people by mistake is harmless, parting one
    is a leak.
    """
    current: list[Photo] = []
    for run in ascending_runs(photos):
        disjoint = not {digit for _, digit, _ in current} & {digit for _, digit, _ in run}
        continued = len(current) < 9 and run[0][1] != 0
        if current and not disjoint and not continued:
            yield current
            current = []
        current = current + run
    yield current


def ascending_runs(photos: list[Photo]) -> Iterator[list[Photo]]:
    """Cut the photos wherever the digit falls."""
    run: list[Photo] = []
    for photo in photos:
        if run and photo[1] < run[-1][1]:
            yield run
            run = []
        run.append(photo)
    yield run


def pack_photos(source: Path, target: Path) -> None:
    """Every photo as `<signer>_<digit>_<camera number>.webp`. WebP is compressed already, so it is stored."""
    with zipfile.ZipFile(source) as original, zipfile.ZipFile(target, "w") as packed:
        for signer, photos in enumerate(signers(photos_in_order(original))):
            for number, digit, name in photos:
                encoded = io.BytesIO()
                with Image.open(io.BytesIO(original.read(name))) as image:
                    image.convert("RGB").save(encoded, "WEBP", quality=75, method=6)
                packed.writestr(zipfile.ZipInfo(f"{signer:03d}_{digit}_{number}.webp", EPOCH), encoded.getvalue())


def pack_voices(source: Path, target: Path) -> None:
    """Every clip as `<digit>_<speaker>_<take>.opus`, about 23 kbit/s, with the sampling rate of 8 kHz in its header.

    Deflated although Opus is compressed already: the encoder leaves half a kilobyte of zeros in each header.
    """
    with zipfile.ZipFile(source) as original, zipfile.ZipFile(target, "w") as packed:
        for name in sorted(n for n in original.namelist() if n.endswith(".flac")):
            samples, sampling_rate = soundfile.read(io.BytesIO(original.read(name)), dtype="float32")
            encoded = io.BytesIO()
            soundfile.write(encoded, samples, sampling_rate, format="OGG", subtype="OPUS", compression_level=0.93)
            entry = zipfile.ZipInfo(str(PurePosixPath(name).with_suffix(".opus")), EPOCH)
            packed.writestr(entry, encoded.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    pack_photos(Path(sys.argv[1]) / "signdigits_64.zip", HERE / "photos.zip")
    pack_voices(Path(sys.argv[1]) / "fsdd_flac.zip", HERE / "voices.zip")
