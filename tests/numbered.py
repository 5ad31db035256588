"""Videos whose frames show their numbers, in any container, at any times."""

from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT, BITS = 96, 64, 6


def picture(number, size=(WIDTH, HEIGHT)):
    """A number below 64 as six bars in the lower half; the upper left corner is red."""
    width, height = size
    image = np.full((height, width, 3), 90, np.uint8)
    image[: height // 3, : width // 3] = (220, 30, 30)
    for bit in range(BITS):
        image[height // 2 :, bit * width // BITS : (bit + 1) * width // BITS] = 235 if number >> bit & 1 else 20
    return image


def number_of(image):
    """The number that an upright picture shows."""
    height, width = image.shape[:2]
    bars = [image[int(height * 0.75), int((bit + 0.5) * width / BITS)].mean() for bit in range(BITS)]
    return sum(int(bar > 125) << bit for bit, bar in enumerate(bars))


def write(path, numbers, *, times=None, unit=None, codec="libx264", rate=30, options=None):
    """Writes a video.

    Args:
      path: the file, whose suffix gives the container.
      numbers: of the frames.
      times: of the frames in `unit` seconds; by default frame after frame at `rate`.
      unit: a fraction of a second.
      codec: of FFmpeg.
      rate: frames a second that the header states.
      options: of the container.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.options = {"crf": "12"} if codec == "libx264" else {"b": "4000000"}
        if unit:
            stream.codec_context.time_base = unit
        for i, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt) if codec == "gif" else frame
            frame.pts, frame.time_base = (times[i] if times else i), unit or Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def trim(source, target, first):
    """Cuts a video without encoding it anew, as phones do: the first frames stay in the file, but hidden."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        step = int(1 / stream.average_rate / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - first * step, packet.dts - first * step, copy
                new.mux(packet)
    return target


def set_matrix(path, *matrix):
    """Writes the display matrix of an mp4's video track."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 4 + 20 + 16
    for i, value in enumerate((matrix[0], matrix[1], 0, matrix[2], matrix[3], 0, 0, 0, 1 << 14)):
        content[start + 4 * i : start + 4 * i + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
