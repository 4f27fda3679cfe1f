"""Videos written from arrays, through PyAV."""

import io

import av
import numpy as np


def encoded(frames: np.ndarray, rate: int = 10, codec: str = "libx264", form: str = "mp4") -> bytes:
    """The file of a video.

    Args:
        frames: uint8, [frames, height, width, 3]; the sides are even numbers.
        rate: frames a second.
        codec: of FFmpeg.
        form: of the container.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
