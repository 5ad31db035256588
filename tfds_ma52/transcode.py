"""Checks of video clips and their transcoding to what is quick to read, on all cores."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import cv2
import numpy as np
import tqdm
from jaxtyping import UInt8

from tfds_ma52 import sources
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.encoding import VideoInfo, encode_h264, encode_jpegs
from tfds_ma52.files import write_atomically
from tfds_ma52.pool import process_pool
from tfds_ma52.video import DamagedVideoError, Frame

Form = Literal["original", "h264", "jpeg"]  # the file as it is, `encode_h264`, `encode_jpegs`


def transcode(clip: ClipFrames, short_side: int, form: Literal["h264", "jpeg"] = "h264") -> tuple[bytes, VideoInfo]:
    """Rewrites a clip as H.264 in MP4 or as JPEGs, frame by frame, without sound.

    Frames are scaled so that their shorter side has `short_side` pixels (smaller ones keep their size), with
    bilinear interpolation, as the released code scales them when it loads them.

    Raises:
      DamagedVideoError: see `ClipFrames.read`.
    """
    frames = _resized(clip.read(convert=True), short_side)
    content, info = encode_h264(frames, preset="medium") if form == "h264" else encode_jpegs(frames)
    return content, dataclasses.replace(info, announces_length=clip.announces_length())


def _resized(frames: Iterable[Frame[Any]], short_side: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The images of frames, scaled to the size of `even_size`."""
    for frame in frames:
        image, size = frame.picture.image(), even_size(frame.picture.size, short_side)
        yield image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def even_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) of a stored clip: the shorter at most `short_side`, both even, as 4:2:0 chroma needs them."""
    scale = min(1.0, short_side / min(size))
    height, width = (max(2, 2 * round(side * scale / 2)) for side in size)
    return height, width


def inspect(clip: ClipFrames) -> VideoInfo:
    """Decodes a whole clip to count its frames.

    Raises:
      DamagedVideoError: see `ClipFrames.read`; or it is a folder.
    """
    if clip.path.is_dir():
        raise DamagedVideoError("it is a folder, not a file to store: build with a config of h264_256")
    num_frames, size = 0, (0, 0)
    for frame in clip.read():
        num_frames, size = num_frames + 1, frame.picture.size
    return VideoInfo(num_frames, *size, announces_length=clip.announces_length())


def prepare_videos(
    jobs: list[tuple[ClipFrames, pathlib.Path]],
    *,
    form: Form,
    short_side: int,
    num_processes: int,
) -> list[VideoInfo | str]:
    """Checks and, but for "original", transcodes many videos on many cores, with a progress bar.

    Finished ones are kept under their targets, so that a stopped run resumes.

    Args:
      jobs: each clip, and a target without ending (a `.json` file is written there, and `content_path`).
      form: how they are stored.
      short_side: of those that are transcoded.
      num_processes: 0 stands for all cores.

    Returns:
      For each job, the clip's frame count and size, or the fault of the video.
    """
    num_processes = min(num_processes or os.cpu_count() or 1, max(1, len(jobs)))
    with process_pool(num_processes) as pool:
        futures = [pool.submit(_prepare_video, *job, form, short_side) for job in jobs]
        try:
            done = concurrent.futures.as_completed(futures)
            verb = "checking clips" if form == "original" else "transcoding clips"
            for future in tqdm.tqdm(done, verb, len(futures), unit="clip", dynamic_ncols=True):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def content_path(target: pathlib.Path) -> pathlib.Path:
    """The file of a transcoded clip's content, see `prepare_videos`."""
    return target.with_name(target.name + ".content")


def _prepare_video(clip: ClipFrames, target: pathlib.Path, form: Form, short_side: int) -> VideoInfo | str:
    note = target.with_name(target.name + ".json")
    try:
        stamp = json.dumps([form, short_side, sources.state(clip.path), dataclasses.asdict(clip)], default=str)
        if note.exists():
            record = json.loads(note.read_text())
            if record["stamp"] == stamp:
                return VideoInfo(**record["info"])
        content, info = (None, inspect(clip)) if form == "original" else transcode(clip, short_side, form)
    except DamagedVideoError as error:
        return str(error)
    except (OSError, ValueError, RuntimeError) as error:  # one odd file must not end a build of thousands
        return f"the file cannot be read ({type(error).__name__}: {error})"
    target.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        write_atomically(content_path(target), content)
    write_atomically(note, json.dumps({"stamp": stamp, "info": dataclasses.asdict(info)}))
    return info
