"""Checks of video clips and their transcoding to small files, on all cores."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import tqdm
from jaxtyping import UInt8

from tfds_ma52 import video
from tfds_ma52.encoding import VideoInfo, encode_h264
from tfds_ma52.files import write_atomically
from tfds_ma52.pool import process_pool
from tfds_ma52.video import DamagedVideoError, Frame, Picture


def transcode(path: pathlib.Path, short_side: int, span: tuple[float, float] | None = None) -> tuple[bytes, VideoInfo]:
    """Rewrites a video as H.264 in MP4, frame by frame, without sound.

    Frames are scaled so that their shorter side has `short_side` pixels (smaller ones keep their size), with
    bilinear interpolation, as the released code scales them when it loads them.

    Args:
      path: the file.
      short_side: in pixels.
      span: start and end in seconds of the part wanted, see `video.frames_between`; None stands for all frames.

    Raises:
      DamagedVideoError: see `video.read_frames`; or the video has no frame in the span.
    """
    frames = video.read_frames(path)
    if span is not None:
        frames = video.frames_between(frames, *span)
    content, info = encode_h264(_resized(frames, short_side), preset="medium")
    return content, dataclasses.replace(info, announces_length=video.announces_length(path))


def _resized(frames: Iterable[Frame[Picture]], short_side: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The images of frames, scaled to the size of `even_size`."""
    for frame in frames:
        image, size = frame.picture.image(), even_size(frame.picture.size, short_side)
        yield image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def even_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) of a stored clip: the shorter at most `short_side`, both even, as 4:2:0 chroma needs them."""
    scale = min(1.0, short_side / min(size))
    height, width = (max(2, 2 * round(side * scale / 2)) for side in size)
    return height, width


def inspect(path: pathlib.Path) -> VideoInfo:
    """Decodes a whole video to count its frames.

    Raises:
      DamagedVideoError: see `video.read_frames`.
    """
    num_frames, size = 0, (0, 0)
    for frame in video.read_frames(path):
        num_frames, size = num_frames + 1, frame.picture.size
    return VideoInfo(num_frames, *size, announces_length=video.announces_length(path))


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
        span wanted of it, see `transcode`.
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
