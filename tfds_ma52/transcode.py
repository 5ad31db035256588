"""Checks of video clips and their transcoding to small files, on all cores."""

import collections.abc
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib

import av
import cv2
import decord
import numpy as np
import tqdm
from jaxtyping import UInt8

from tfds_ma52.encoding import VideoInfo, encode_h264
from tfds_ma52.files import write_atomically
from tfds_ma52.pool import process_pool

_ROTATIONS = {  # degrees counter-clockwise, as FFmpeg reports them
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_CLOCKWISE,
}


class DamagedVideoError(Exception):
    """A file that cannot be read as a video from its first to its last frame; the text gives the reason."""


def decode_video(
    path: pathlib.Path, span: tuple[float, float] | None = None
) -> collections.abc.Iterator[UInt8[np.ndarray, "h w c"]]:
    """Yields the RGB frames of a video, upright.

    Args:
      path: the file.
      span: start and end in seconds of the part wanted, by the mean frame rate; None stands for all frames.

    Raises:
      DamagedVideoError: the file is missing, empty, not a video, without a video track, cut off or broken, or has no
        frame in the span.
    """
    with _open_whole(path) as container:
        stream = container.streams.video[0]
        first, end = (0, None) if span is None else (round(s * _frame_rate(stream)) for s in span)
        number = -1
        for number, frame in enumerate(container.decode(stream)):
            if number == end:
                return
            if number >= first:
                yield upright_image(frame)
        if number < first:
            raise DamagedVideoError(f"the file has no frame{f' from second {span[0]:.2f} on' if span else 's'}")


def _frame_rate(stream: av.VideoStream) -> float:
    if not stream.average_rate:
        raise DamagedVideoError("the file does not state its frame rate")
    return float(stream.average_rate)


def check_file(path: pathlib.Path) -> None:
    """Checks that a file is a video and whole, as far as that is known without decoding it.

    Raises:
      DamagedVideoError: see `decode_video`.
    """
    with _open_whole(path):
        pass


@contextlib.contextmanager
def _open_whole(path: pathlib.Path) -> collections.abc.Iterator[av.container.InputContainer]:
    if not path.is_file():
        raise DamagedVideoError("the file is missing")
    if path.stat().st_size == 0:
        raise DamagedVideoError("the file is empty")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise DamagedVideoError("the file has no video track")
            _refuse_false_header(container.streams.video[0], path.stat().st_size)
            yield container
    except av.error.FFmpegError as error:
        raise DamagedVideoError(f"the file is damaged or not a video ({error.strerror})") from error


def _refuse_false_header(stream: av.VideoStream, file_size: int) -> None:
    # decord makes room for as many frames as a header announces, and ends the process where there is none.
    if stream.frames > file_size:
        raise DamagedVideoError(f"the file announces {stream.frames} frames in {file_size} bytes")
    if stream.average_rate is not None and not 0.1 <= stream.average_rate <= 10_000:
        raise DamagedVideoError(f"the file announces {float(stream.average_rate):.3g} frames a second")
    # A file cut at a packet decodes without an error: only its index, which points beyond its end, gives it away.
    entries = list(stream.index_entries)
    present = sum(entry.pos + entry.size <= file_size for entry in entries)
    if present < len(entries):
        raise DamagedVideoError(f"the file is cut off: {present} of its {len(entries)} frames are there")


def upright_image(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w c"]:
    """The RGB image of a frame, turned as the file's header asks."""
    image = frame.to_ndarray(format="rgb24")
    rotation = _ROTATIONS.get(frame.rotation % 360)
    return image if rotation is None else cv2.rotate(image, rotation)


def transcode(path: pathlib.Path, short_side: int, span: tuple[float, float] | None = None) -> tuple[bytes, VideoInfo]:
    """Rewrites a video as H.264 in MP4, frame by frame, without sound.

    Frames are scaled so that their shorter side has `short_side` pixels (smaller ones keep their size), with
    bilinear interpolation, as the released code scales them when it loads them.

    Raises:
      DamagedVideoError: see `decode_video`.
    """
    return encode_h264(_resized(decode_video(path, span), short_side), preset="medium")


def _resized(
    frames: collections.abc.Iterable[UInt8[np.ndarray, "h w c"]], short_side: int
) -> collections.abc.Iterator[UInt8[np.ndarray, "h2 w2 c"]]:
    """Scales frames to the size that `even_size` gives the first of them."""
    size = None
    for image in frames:
        size = size or even_size(image.shape[:2], short_side)
        yield image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def even_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) of a stored clip: the shorter at most `short_side`, both even, as 4:2:0 chroma needs them."""
    scale = min(1.0, short_side / min(size))
    height, width = (max(2, 2 * round(side * scale / 2)) for side in size)
    return height, width


def inspect(path: pathlib.Path) -> VideoInfo:
    """Decodes a whole video to count its frames.

    Raises:
      DamagedVideoError: see `decode_video`; or decord, which reads the stored files in training, counts other frames.
    """
    num_frames, shape = 0, (0, 0)
    for image in decode_video(path):
        num_frames, shape = num_frames + 1, image.shape[:2]
    try:
        num_read = len(decord.VideoReader(str(path), num_threads=1, fault_tol=1))
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError) as error:
        raise DamagedVideoError("decord, which reads stored files in training, cannot: write the file anew") from error
    if num_read != num_frames:
        raise DamagedVideoError(f"the file's edit list hides all but {num_frames} of its frames: write it anew")
    return VideoInfo(num_frames, *shape)


def prepare_videos(
    jobs: list[tuple[pathlib.Path, pathlib.Path, tuple[float, float] | None]],
    *,
    short_side: int | None,
    num_processes: int,
) -> list[VideoInfo | str]:
    """Checks and, with a `short_side`, transcodes many videos on many cores, with a progress bar.

    Finished ones are kept under their targets, so that a stopped run resumes.

    Args:
      jobs: for each video its source, a target without ending (`.mp4` and `.json` files are written there), and the
        span wanted of it, see `decode_video`.
      short_side: see `transcode`; None only checks the videos.
      num_processes: 0 stands for all cores.

    Returns:
      For each job, the clip's frame count and size, or the fault of the video.
    """
    num_processes = min(num_processes or os.cpu_count() or 1, max(1, len(jobs)))
    with process_pool(num_processes) as pool:
        futures = [pool.submit(_prepare_video, *job, short_side) for job in jobs]
        try:
            done = concurrent.futures.as_completed(futures)
            verb = "checking clips" if short_side is None else "transcoding clips"
            for future in tqdm.tqdm(done, verb, len(futures), unit="clip", dynamic_ncols=True):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _prepare_video(
    source: pathlib.Path, target: pathlib.Path, span: tuple[float, float] | None, short_side: int | None
) -> VideoInfo | str:
    note = target.with_name(target.name + ".json")
    try:
        wanted = [short_side] if span is None else [short_side, *span]
        stamp = [source.stat().st_size, source.stat().st_mtime_ns, *wanted] if source.is_file() else None
        if note.exists():
            record = json.loads(note.read_text())
            if record["stamp"] == stamp:
                return VideoInfo(**record["info"])
        content, info = (None, inspect(source)) if short_side is None else transcode(source, short_side, span)
    except DamagedVideoError as error:
        return str(error)
    except (OSError, ValueError, RuntimeError) as error:  # one odd file must not end a build of thousands
        return f"the file cannot be read ({type(error).__name__}: {error})"
    target.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        write_atomically(target.with_name(target.name + ".mp4"), content)
    write_atomically(note, json.dumps({"stamp": stamp, "info": dataclasses.asdict(info)}))
    return info
