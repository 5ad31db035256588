"""Checks of video clips and their transcoding to what is quick to read, on all cores."""

import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
import tqdm
from jaxtyping import UInt8

from tfds_ma52 import sources, video
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.encoding import VideoInfo, encode_h264, encode_jpegs
from tfds_ma52.files import write_atomically
from tfds_ma52.pool import is_stopped, process_pool, stop_event
from tfds_ma52.video import DamagedVideoError, Frame

Form = Literal["original", "h264", "jpeg"]  # the file as it is, `encode_h264`, `encode_jpegs`
_Resized = Frame[UInt8[np.ndarray, "h w 3"]]


def transcode(
    clip: ClipFrames, short_side: int, form: Literal["h264", "jpeg"] = "h264", tape: "Tape | None" = None
) -> tuple[bytes, VideoInfo]:
    """Rewrites a clip as H.264 in MP4 or as JPEGs, frame by frame, without sound.

    Frames are scaled so that their shorter side has `short_side` pixels (smaller ones keep their size), with
    bilinear interpolation, as the released code scales them when it loads them.

    Args:
      clip: what is rewritten.
      short_side: in pixels.
      form: what is made of it.
      tape: where the frames of a part of a video are taken from; None reads the video anew.

    Raises:
      DamagedVideoError: see `ClipFrames.read`.
    """
    frames = tape.between(*clip.span) if tape and clip.span else _resized(clip, short_side)
    images = (frame.picture for frame in frames)
    content, info = encode_h264(images, preset="medium") if form == "h264" else encode_jpegs(images)
    return content, dataclasses.replace(info, announces_length=clip.announces_length())


def _resized(clip: ClipFrames, short_side: int) -> Iterator[_Resized]:
    """The images of a clip's frames, scaled to the size of `even_size`."""
    for frame in clip.read(convert=True):
        image, size = frame.picture.image(), even_size(frame.picture.size, short_side)
        if image.shape[:2] != size:
            image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        yield Frame(frame.start, frame.end, image)


class Tape:
    """The frames of a video, of which parts are taken in the order of their starts, and which is read once."""

    def __init__(self, frames: Iterator[_Resized]):
        self._frames = frames
        self._kept: collections.deque[_Resized] = collections.deque()
        self._error: Exception | None = None

    def between(self, start: float, end: float) -> Iterator[_Resized]:
        """See `video.frames_between`; no part that is taken later may start before this one."""
        while self._kept and self._kept[0].end <= start:
            self._kept.popleft()
        return video.frames_between(self._replay(start), start, end)

    def _replay(self, start: float) -> Iterator[_Resized]:
        yield from tuple(self._kept)
        if self._error:  # or the frames would just end there
            raise self._error
        try:
            for frame in self._frames:
                if frame.end > start:  # else no part needs it: a run that resumes comes by all those before
                    self._kept.append(frame)
                yield frame
        except Exception as error:
            self._error = error
            raise


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

    Finished ones are kept under their targets, so that a stopped run resumes. A video of which many parts are wanted is
    read once, on one core.

    Args:
      jobs: each clip, and a target without ending (a `.json` file is written there, and `content_path`).
      form: how they are stored.
      short_side: of those that are transcoded.
      num_processes: 0 stands for all cores.

    Returns:
      For each job, the clip's frame count and size, or the fault of the video.
    """
    videos: dict[ClipFrames | int, list[int]] = collections.defaultdict(list)  # the numbers of each one's parts
    for i in sorted(range(len(jobs)), key=lambda i: jobs[i][0].span or (0.0, 0.0)):
        clip = jobs[i][0]
        videos[dataclasses.replace(clip, span=None) if clip.span else i].append(i)
    infos: list[VideoInfo | str] = [""] * len(jobs)
    num_processes = min(num_processes or os.cpu_count() or 1, max(1, len(videos)))
    verb = "checking clips" if form == "original" else "transcoding clips"
    progress = tqdm.tqdm(desc=verb, total=len(jobs), unit="clip", dynamic_ncols=True)
    stop = stop_event()
    with process_pool(num_processes, stop) as pool, progress:
        numbers = {
            pool.submit(_prepare_parts, [jobs[i] for i in parts], form, short_side): parts for parts in videos.values()
        }
        try:
            for future in concurrent.futures.as_completed(numbers):
                for i, info in zip(numbers[future], future.result(), strict=True):
                    infos[i] = info
                progress.update(len(numbers[future]))
        except BaseException:
            stop.set()  # else a worker would first finish its video
            pool.shutdown(cancel_futures=True)
            raise
    return infos


def content_path(target: pathlib.Path) -> pathlib.Path:
    """The file of a transcoded clip's content, see `prepare_videos`."""
    return target.with_name(target.name + ".content")


def _prepare_parts(jobs: list[tuple[ClipFrames, pathlib.Path]], form: Form, short_side: int) -> list[VideoInfo | str]:
    """As `prepare_videos`: one clip, or parts of one video in the order of their starts."""
    tape = Tape(_resized(dataclasses.replace(jobs[0][0], span=None), short_side))
    infos: list[VideoInfo | str] = []
    for job in jobs:
        if is_stopped():
            break  # nobody waits for these
        infos.append(_prepare_video(*job, form, short_side, tape))
    return infos


def _prepare_video(clip: ClipFrames, target: pathlib.Path, form: Form, short_side: int, tape: Tape) -> VideoInfo | str:
    note = target.with_name(target.name + ".json")
    try:
        stamp = json.dumps([form, short_side, sources.state(clip.path), dataclasses.asdict(clip)], default=str)
        if note.exists():
            record = json.loads(note.read_text())
            if record["stamp"] == stamp:
                return VideoInfo(**record["info"])
        if form == "original":
            content, info = None, inspect(clip)
        else:
            content, info = transcode(clip, short_side, form, tape)
    except DamagedVideoError as error:
        return str(error)
    except (OSError, ValueError, RuntimeError) as error:  # one odd file must not end a build of thousands
        return f"the file cannot be read ({type(error).__name__}: {error})"
    target.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        write_atomically(content_path(target), content)
    write_atomically(note, json.dumps({"stamp": stamp, "info": dataclasses.asdict(info)}))
    return info
