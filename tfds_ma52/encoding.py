"""The forms of stored clips: H.264 in MP4, quick to decode, also of synthetic clips; and a JPEG a frame."""

import dataclasses
import io
from collections.abc import Iterable

import av
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from tfds_ma52 import jpegs

FRAME_RATE = 30
# Without B-frames, deblocking and CABAC (fastdecode) a decoder needs about half the time. With mbtree, x264's output
# differs from run to run in one clip out of ten; without it, CRF 20 gives what CRF 18 gives with it (42.0 and 41.1 dB
# on a synthetic clip).
_X264_OPTIONS = {"crf": "20", "tune": "fastdecode", "bf": "0", "x264-params": "mbtree=0"}
# The logits of the recorded model move as much with 90 or 95, which take 1.25 and 1.8 times the bytes, and half as much
# as with the H.264 but on saturated test patterns (docs/performance.md).
JPEG_QUALITY = 85


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Frame count and size in pixels of a clip as stored, and whether its file said how long it was."""

    num_frames: int
    height: int
    width: int
    announces_length: bool = True


def encode_h264(
    frames: Iterable[UInt8[np.ndarray, "h w c"]], *, preset: str, frame_rate: int = FRAME_RATE
) -> tuple[bytes, VideoInfo]:
    """Encodes RGB frames of one even size as an mp4 file without sound.

    Args:
      frames: at least one.
      preset: x264's, such as "medium".
      frame_rate: frames a second.

    Returns:
      The file's content, the same for the same frames, and its frame count and size.
    """
    output, num_frames, height, width = io.BytesIO(), 0, 0, 0
    with av.open(output, "w", format="mp4") as container:
        stream = None
        for image in frames:
            if stream is None:
                height, width = image.shape[:2]
                stream = container.add_stream("libx264", rate=frame_rate, options={**_X264_OPTIONS, "preset": preset})
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                stream.codec_context.thread_count = 1  # clips are spread over the cores, one each
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = num_frames
            container.mux(stream.encode(frame))
            num_frames += 1
        if stream is not None:
            container.mux(stream.encode())
    return output.getvalue(), VideoInfo(num_frames, height, width)


def encode_jpegs(frames: Iterable[UInt8[np.ndarray, "h w c"]]) -> tuple[bytes, VideoInfo]:
    """Encodes RGB frames of one even size as a JPEG each, with chroma at half the resolution, in one content.

    Args:
      frames: at least one.

    Returns:
      The content in the form of `jpegs`, the same for the same frames, and its frame count and size.
    """
    encoded, height, width = [], 0, 0
    for image in frames:
        height, width = image.shape[:2]
        encoded.append(simplejpeg.encode_jpeg(image, JPEG_QUALITY, colorspace="RGB", colorsubsampling="420"))
    return jpegs.join(encoded), VideoInfo(len(encoded), height, width)
