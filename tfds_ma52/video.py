"""The frames of video files from outside, by their time stamps.

Time 0 is the first frame that a player shows: start times and edit lists are taken off. Frames are upright, and all of
the size of the first.
"""

import contextlib
import dataclasses
import io
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from tfds_ma52 import containers

SUFFIXES = (  # of files that are looked for in folders
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".asf", ".flv", ".ogv", ".mxf", ".gif"),
)
LONGEST = 24 * 3600.0  # seconds of a video
# Where a packet is a picture. Others have packets of half a picture, of none, or of two.
_FORMATS_OF_PICTURES = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_CODECS_OF_PICTURES = {"h264", "hevc", "vp9", "av1", "mjpeg"}
_SLACK = 1e-6  # seconds that rounding may cost
_ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}  # before, there were no others
_OPTIONS = {"correct_ts_overflow": "0"}  # FFmpeg would take a joined recording's earlier times for a day later


Matrix = tuple[int, int, int, int]


class DamagedVideoError(Exception):
    """A file that cannot be read as a video from its first to its last frame; the text gives the reason."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """The pixels of a frame.

    Attributes:
      size: height and width of the video's first frame, upright.
      decoded: not upright and not RGB yet.
      matrix: how it must be turned and mirrored, see `_display_matrix`.
      reformatter: of the video, see `_to_rgb`.
      converted: as RGB, but not upright, where that was done already.
    """

    size: tuple[int, int]
    decoded: av.VideoFrame
    matrix: Matrix
    reformatter: VideoReformatter
    converted: UInt8[np.ndarray, "h w 3"] | None = None

    @property
    def num_bytes(self) -> int:
        """The memory that it takes, about."""
        return sum(plane.buffer_size for plane in self.decoded.planes)

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB image, upright, scaled to the size of the first frame where the video changes its size."""
        image = _to_rgb(self.decoded, self.reformatter) if self.converted is None else self.converted
        image = _upright(image, self.matrix)
        if image.shape[:2] == self.size:
            return image
        return cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_LINEAR)


P = TypeVar("P")


@dataclasses.dataclass(frozen=True)
class Frame(Generic[P]):
    """A frame as a player shows it.

    Attributes:
      start: seconds from the first frame to this one.
      end: seconds from the first frame to the next one, or to the video's end.
      picture: what it shows.
    """

    start: float
    end: float
    picture: P

    @property
    def middle(self) -> float:
        """The middle of the time for which it is shown, in seconds."""
        return (self.start + self.end) / 2


def read_frames(
    source: pathlib.Path | bytes, *, num_threads: int = 0, convert: bool = False
) -> Iterator[Frame[Picture]]:
    """Decodes a video from its start to its end, frame by frame.

    Args:
      source: a file, or its content.
      num_threads: of the decoder; 0 leaves it to FFmpeg.
      convert: whether to convert every frame at once. Where all are wanted that is quicker than later: the pixels are
        still in the processor's cache.

    Raises:
      DamagedVideoError: it is missing, empty, not a video, without a video track or a frame, cut off, or broken. What
        comes before a break is yielded before.
    """
    if isinstance(source, pathlib.Path):
        announces_length(source)
    with _open(source) as container:
        stream = _video_stream(container)
        if isinstance(source, pathlib.Path):
            _check_index(stream, source.stat().st_size)
        stream.codec_context.thread_count = num_threads
        clock, held, start = _Clock(stream), None, 0.0
        reformatter = VideoReformatter()
        size, rotation, matrix = (0, 0), 0, (1, 0, 0, 1)
        for decoded in _decode(container, stream):
            next_start = clock.read(decoded)
            if held is None:
                size = _upright_size(decoded)
            elif held.decoded.is_corrupt:
                raise DamagedVideoError(f"the file is damaged: its picture at {start:.2f} s is broken")
            else:
                yield Frame(start, next_start, held)
            if held is None or decoded.rotation != rotation:  # to look for the matrix takes a tenth of decoding
                rotation, matrix = decoded.rotation, _display_matrix(decoded)
            converted = _to_rgb(decoded, reformatter) if convert else None
            held, start = Picture(size, decoded, matrix, reformatter, converted), next_start
        if held is None:
            raise DamagedVideoError("the file has no frame")
        if held.decoded.is_corrupt:
            raise DamagedVideoError(f"the file is cut off: its last picture, at {start:.2f} s, is incomplete")
        yield Frame(start, start + clock.duration(held.decoded), held)


def frames_between(frames: Iterable[Frame[P]], start: float, end: float) -> Iterator[Frame[P]]:
    """Those frames of a video that are shown between two times, in seconds.

    A frame counts where the middle of its time lies between them; where no frame's does, the one that is shown halfway
    between them stands for all.

    Raises:
      DamagedVideoError: the video ends before.
    """
    halfway, shown, found = (start + end) / 2, None, False
    for frame in frames:
        if frame.start <= halfway:
            shown = frame
        if frame.middle >= end - _SLACK:
            break
        if frame.middle >= start - _SLACK:
            found = True
            yield frame
    if not found:
        if shown is None or shown.end <= start:
            raise DamagedVideoError(f"the file has no frame from second {start:.2f} on")
        yield shown


def announces_length(path: pathlib.Path) -> bool:
    """Whether a file says how long it is, so that it is known to be whole.

    Raises:
      DamagedVideoError: it is shorter than it says, or cannot be read.
    """
    if not path.is_file():
        raise DamagedVideoError("the file is missing")
    if path.stat().st_size == 0:
        raise DamagedVideoError("the file is empty")
    try:
        return containers.announces_length(path)
    except containers.CutOffError as error:
        raise DamagedVideoError(f"the file is cut off: {error}") from error
    except OSError as error:
        raise DamagedVideoError(f"the file cannot be read ({error.strerror})") from error


def unchecked(paths: Sequence[str]) -> str:
    """A sentence on files for which `announces_length` is false."""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"files that do not say how long they are may be cut off unnoticed: {', '.join(paths[:3])}{more}"


def estimate_duration(path: pathlib.Path) -> float:
    """The seconds that a file's header gives, at most a day; 0 where it gives none."""
    with _open(path) as container:
        return min(LONGEST, (container.duration or 0) / av.time_base)


def frame_rate(path: pathlib.Path) -> float:
    """The frames a second that a file's header gives, on average; 25 where it gives none, as of browsers' recordings.

    Raises:
      DamagedVideoError: it cannot be read.
    """
    with _open(path) as container:
        return _frame_rate(_video_stream(container))


def _upright(image: UInt8[np.ndarray, "h w 3"], matrix: Matrix) -> UInt8[np.ndarray, "h2 w2 3"]:
    """An image, turned and mirrored."""
    a, b, c, d = matrix
    if a > 0 < d and b == c == 0:
        return image
    if abs(b) + abs(c) > abs(a) + abs(d):  # a quarter turn, perhaps mirrored: x' = cy, y' = bx
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    a, b, c, d = _display_matrix(frame)
    size = frame.height, frame.width
    return size[::-1] if abs(b) + abs(c) > abs(a) + abs(d) else size


def _display_matrix(frame: av.VideoFrame) -> Matrix:
    """The part (a, b, c, d) of a header's matrix that turns and mirrors: x' = ax + cy, y' = bx + dy."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, SideData):
        return 1, 0, 0, 1
    matrix = np.frombuffer(bytes(data), np.int32)
    return int(matrix[0]), int(matrix[1]), int(matrix[3]), int(matrix[4])


class _Clock:
    """The times of a video's frames in seconds, rising from 0."""

    def __init__(self, stream: av.VideoStream):
        self.step = 1 / _frame_rate(stream)  # to the last frame; of the first as announced
        self._zero: float | None = None
        self._last = 0.0
        self._shown = _Stamps()
        self._decoded = _Stamps()

    def read(self, frame: av.VideoFrame) -> float:
        """The time of the next frame.

        A frame without a time, or whose time does not rise, comes one step after the one before. Where times fall back
        by more than a second, as in transport streams that are joined, they go on from there.

        Raises:
          DamagedVideoError: the time is more than a day.
        """
        stamp = self._stamp(frame)
        if self._zero is None:
            self._zero = stamp or 0.0
            return 0.0
        next_time = self._last + self.step
        time = next_time if stamp is None else stamp - self._zero
        if stamp is not None and time < self._last - 1:
            self._zero = stamp - next_time
        if time <= self._last:
            time = next_time
        if time > LONGEST:
            raise DamagedVideoError(f"the file announces a frame {time / 3600:.0f} hours after its first")
        self.step, self._last = time - self._last, time
        return time

    def _stamp(self, frame: av.VideoFrame) -> float | None:
        """When to show a frame, or to decode it where that rises more reliably, as of H.264 in AVI: FFmpeg's rule."""
        base = float(frame.time_base or 0)
        shown = self._shown.read(None if frame.pts is None else frame.pts * base)
        decoded = self._decoded.read(None if frame.dts is None else frame.dts * base)
        if shown is None or (decoded is not None and self._shown.num_faulty > self._decoded.num_faulty):
            return decoded
        return shown

    def duration(self, frame: av.VideoFrame) -> float:
        """For how long the last frame is shown."""
        stated = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        return stated if 0 < stated <= LONGEST else self.step


class _Stamps:
    """Counts the stamps of one kind that do not rise."""

    def __init__(self) -> None:
        self.num_faulty = 0
        self._last: float | None = None

    def read(self, stamp: float | None) -> float | None:
        """Takes notice of the next stamp and returns it."""
        if stamp is not None:
            self.num_faulty += self._last is not None and stamp <= self._last
            self._last = stamp
        return stamp


@contextlib.contextmanager
def _open(source: pathlib.Path | bytes) -> Iterator[av.container.InputContainer]:
    try:
        # Absolute, as FFmpeg takes what stands before a colon for a protocol.
        opened = str(source.absolute()) if isinstance(source, pathlib.Path) else io.BytesIO(source)
        with av.open(opened, "r", metadata_errors="replace", options=_OPTIONS) as container:
            yield container
    except (av.error.FFmpegError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it ends too early"
        raise DamagedVideoError(f"the file is damaged or not a video ({reason})") from error


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & Disposition.attached_pic:  # a cover picture
        raise DamagedVideoError("the file has no video track")
    if stream.codec_context is None:
        raise DamagedVideoError("the file's video track is of an unknown kind")
    return stream


def _frame_rate(stream: av.VideoStream) -> float:
    rate = float(stream.average_rate or 0)
    return rate if 0.001 <= rate <= 10_000 else 25.0


def _decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """The frames of a stream; refuses one of which the decoder leaves some out without an error.

    An empty packet, at which decoders fail, lets the frame before stand, as in Theora.
    """
    num_packets = num_frames = 0
    for packet in container.demux(stream):
        if packet.size or not packet.buffer_ptr:  # the last packet has no content at all
            num_packets += bool(packet.size) and not packet.is_discard
            for frame in packet.decode():
                num_frames += 1
                yield frame
    counts = container.format.name in _FORMATS_OF_PICTURES and stream.codec_context.name in _CODECS_OF_PICTURES
    if counts and num_frames < num_packets:
        raise DamagedVideoError(f"the file is damaged: {num_packets - num_frames} of its pictures cannot be decoded")


def _to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB pixels of a frame.

    Args:
      frame: as decoded.
      reformatter: one for all frames of a video. `frame.to_ndarray(format=...)` makes one for each frame, and threads
        for it, which takes longer than to decode a small frame.
    """
    return reformatter.reformat(frame, format="rgb24", **_ONE_THREAD).to_ndarray()


def _check_index(stream: av.VideoStream, file_size: int) -> None:
    """Holds an index against the file: one cut at a packet decodes without an error."""
    if stream.frames > file_size:
        raise DamagedVideoError(f"the file announces {stream.frames} frames in {file_size} bytes")
    entries = list(stream.index_entries)
    present = sum(entry.pos + entry.size <= file_size for entry in entries)
    if present < len(entries):
        raise DamagedVideoError(f"the file is cut off: {present} of its {len(entries)} frames are there")
