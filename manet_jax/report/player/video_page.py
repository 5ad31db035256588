"""The page of a video: one HTML file that needs no network, with the video, its segments and its probabilities."""

import base64
import dataclasses
import hashlib
import html
import json
import mimetypes
import os
import pathlib
import string
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from manet_jax.detection.segments import Segment, distinct, shown_segments
from manet_jax.report import figures
from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically
from tfds_ma52.labels import LabelSet

_FOLDER = pathlib.Path(__file__).parent
_SCRIPTS = ("page_data.js", "player.js", "timeline.js", "tables.js", "main.js")


@dataclasses.dataclass(frozen=True)
class VideoPage:
    """What the page of a video shows.

    Attributes:
      video: the file; the page links it, or embeds it.
      duration: seconds.
      frame_rate: frames a second, the average where it varies.
      labels: the classes and their body groups.
      times: of the moments, in seconds from the video's start, rising.
      probabilities: of each class at each moment.
      segments: in any order; those of one action that overlap are alternatives, see `distinct`.
      title: of the page; "" takes the file's name.
      threshold: the score from which segments are shown at first, and counted in the overview.
    """

    video: pathlib.Path
    duration: float
    frame_rate: float
    labels: LabelSet
    times: Float[np.ndarray, " t"]
    probabilities: Float[np.ndarray, "t n"]
    segments: Sequence[Segment]
    title: str = ""
    threshold: float = 0.25

    def __post_init__(self):
        """Checks what would show wrongly.

        Raises:
          UserError: a number out of its range, or arrays that do not fit together.
        """
        for name in ("duration", "frame_rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be a number above 0", field=name)
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}; give 0 to 1", field="threshold")
        self._check_moments()
        for segment in self.segments:
            if not 0 <= segment.start < segment.end < np.inf:
                text = f"a segment lasts from {segment.start} to {segment.end}; it must end after its start, from 0 on"
                raise UserError(text, field="segments")
            if not 0 <= segment.class_id < len(self.labels.names):
                text = f"a segment has class {segment.class_id}; give 0 to {len(self.labels.names) - 1}"
                raise UserError(text, field="segments")
            if not 0 <= segment.score <= 1:
                raise UserError(f"a segment has the score {segment.score}; give 0 to 1", field="segments")

    def _check_moments(self) -> None:
        times, shape = self.times, self.probabilities.shape
        if len(times) == 0 or not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
            raise UserError("times must be at least one moment, each later than the one before", field="times")
        if times[0] < 0 or times[-1] > self.duration:
            text = f"times run from {times[0]:g} to {times[-1]:g} s; they must lie within the {self.duration:g} s"
            raise UserError(text, field="times")
        if shape != (len(times), len(self.labels.names)):
            text = f"probabilities have the shape {shape}; {len(times)} moments of {len(self.labels.names)} classes"
            raise UserError(f"{text} need {(len(times), len(self.labels.names))}", field="probabilities")
        if not ((self.probabilities >= 0) & (self.probabilities <= 1)).all():
            raise UserError("probabilities must lie from 0 to 1", field="probabilities")

    @property
    def heading(self) -> str:
        """The title, or else the file's name."""
        return self.title or figures.printable(self.video.name)

    def shown(self) -> list[Segment]:
        """The distinct segments whose score is at least the threshold, by their start."""
        return shown_segments(self.segments, self.threshold)


def write_page(data: VideoPage, path: pathlib.Path, *, embed_bytes: int = 0, index: str = "") -> None:
    """Writes the page of a video.

    Args:
      data: what it shows.
      path: of the HTML file; its folder is made where it does not exist.
      embed_bytes: a video of at most so many bytes becomes a part of the page; a larger one is linked, relative to it.
      index: the overview's address relative to the page, such as "index.html"; "": the page links none.

    Raises:
      UserError: the page cannot be written, or the video to be embedded cannot be read.
    """
    script = "\n".join((_FOLDER / name).read_text("utf-8") for name in _SCRIPTS)
    style = (_FOLDER / "player.css").read_text("utf-8")
    link = f'<a href="{html.escape(index)}">All videos</a>' if index else ""
    fields = {"policy": policy(style, script), "style": style, "script": script, "index": link}
    fields |= {"title": html.escape(data.heading), "data": to_json(data, _address(data.video, path, embed_bytes))}
    template = string.Template((_FOLDER / "player.html").read_text("utf-8"))
    write_file(path, template.substitute(fields))


def policy(style: str, script: str = "") -> str:
    """A content security policy: the browser runs this style and script alone, and loads nothing but video."""
    kinds = {"style-src": style, "script-src": script}
    hashes = {kind: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for kind, text in kinds.items()}
    sources = "; ".join(f"{kind} 'sha256-{value}'" for kind, value in hashes.items())
    return f"default-src 'none'; {sources}; media-src 'self' file: data: blob:; img-src data:"


def write_file(path: pathlib.Path, text: str) -> None:
    """Writes a page, and makes its folder.

    Raises:
      UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give another folder") from error


def to_json(data: VideoPage, address: str) -> str:
    """What the page's script reads, as JSON that may stand in HTML."""
    moments = len(data.times)
    value: dict[str, Any] = {
        "video": {"address": address, "name": figures.printable(data.video.name)},
        "title": data.heading,
        "duration": data.duration,
        "frameRate": data.frame_rate,
        "threshold": data.threshold,
        "names": data.labels.names,
        "groupNames": data.labels.group_names,
        "groups": data.labels.groups,
        "colors": [figures.group_color(group) for group in range(len(data.labels.group_names))],
        "moments": moments,
        "edges": _base64(moment_edges(data.times, data.duration).astype("<f4")),
        "probabilities": _base64(to_bytes(data.probabilities).T),  # all moments of a class in a row
        "segments": [[s.start, s.end, s.class_id, s.score] for s in distinct(data.segments)],
    }
    # No name may end the script element that holds them, or begin a comment.
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def moment_edges(times: Float[np.ndarray, " t"], duration: float) -> Float[np.ndarray, " t_plus_1"]:
    """The times between which each moment's probabilities are drawn: halfway to its neighbours."""
    return np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [duration]])


def to_bytes(probabilities: Float[np.ndarray, "t n"]) -> UInt8[np.ndarray, "t n"]:
    """Probabilities as bytes, 255 for 1: a quarter of the size, and as fine as a screen shows."""
    return np.round(255 * probabilities).astype(np.uint8)


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _address(video: pathlib.Path, page: pathlib.Path, embed_bytes: int) -> str:
    """The address of a video in a page: relative, so that both can be moved together, or its content."""
    try:
        if video.is_file() and video.stat().st_size <= embed_bytes:
            kind = mimetypes.guess_type(video.name)[0] or "video/mp4"
            return f"data:{kind};base64,{base64.b64encode(video.read_bytes()).decode()}"
    except OSError as error:
        raise UserError(f"{figures.printable(str(video))} cannot be read ({error.strerror})") from error
    try:
        # Of the real folders: a browser takes ".." for the folder above the one that a link leads to.
        relative = os.path.relpath(video.resolve(), page.parent.resolve())
    except ValueError:  # on another drive of Windows
        return video.resolve().as_uri()
    return urllib.parse.quote(os.fsencode(pathlib.Path(relative).as_posix()))
