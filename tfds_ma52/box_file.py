"""Files of boxes around the person in each video, from any detector."""

import collections
import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Iterable, Sequence

from tfds_ma52 import tables
from tfds_ma52.boxes import Box
from tfds_ma52.errors import UserError, report
from tfds_ma52.folder import Folder, slashed

COLUMNS = ("video", "x0", "y0", "x1", "y1")


@dataclasses.dataclass(frozen=True)
class BoxFile:
    """A file of boxes.

    Attributes:
      path: of the file.
      boxes: by the video as the file names it.
    """

    path: pathlib.Path
    boxes: dict[str, Box]

    def match(self, paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, Box]:
        """The boxes of those videos that the file names, by path, by the end of a path, or without the suffix.

        Raises:
          UserError: a name stands for several videos.
        """
        names: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
        for path in dict.fromkeys(paths):
            if name := self.name_of(path):
                names[name].append(path)
        several = [f"{name} = {' = '.join(map(str, found[:3]))}" for name, found in names.items() if len(found) > 1]
        if several:
            title = f"{self.path}: a name stands for several videos; write more of their paths"
            raise UserError(report(title, several), field="boxes")
        return {path: self.boxes[name] for name, (path,) in names.items()}

    def name_of(self, path: pathlib.Path) -> str:
        """The longest of the file's names that a path ends in; "" for none."""
        for whole in (path, path.with_suffix("")):
            ends = ("/".join(whole.parts[i:]) for i in range(len(whole.parts)))
            if name := next((end for end in (whole.as_posix(), *ends) if end in self.boxes), ""):
                return name
        return ""


def read_boxes(path: pathlib.Path) -> BoxFile:
    """Reads a csv file with the columns video, x0, y0, x1, y1 and perhaps frame.

    The numbers are shares of the picture's sides where none is above 1, else pixels. With a column frame a video may
    have a box a frame: it is cropped to the smallest box around all of them, for a moving crop would move the person.
    Rows without numbers, of frames in which nobody was found, are left out.

    Raises:
      UserError: the file is missing or malformed; every wrong row is reported.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path} of boxes: name another one with {{flag}}", field="boxes")
    problems: list[str] = []
    corners: dict[str, list[list[float]]] = collections.defaultdict(list)
    for row in tables.read_csv(path, COLUMNS, problems, optional=("frame",)):
        name, texts = slashed(row.fields["video"].strip()), [row.fields[column].strip() for column in COLUMNS[1:]]
        if not name:
            problems.append(f"{row.location}: the video is missing")
        elif "frame" not in row.fields and corners[name]:
            problems.append(f"{row.location}: {name} has a box already; several need a column frame")
        elif any(texts):
            values = _numbers(texts)
            problems += [] if values else [f"{row.location}: expected x0 < x1 and y0 < y1, got {', '.join(texts)}"]
            corners[name] += [values] if values else []
    if problems:
        raise UserError(report(f"{path} cannot be used", problems), field="boxes")
    in_shares = all(value <= 1 for boxes in corners.values() for values in boxes for value in values)
    return BoxFile(path, {name: _around(boxes, in_shares) for name, boxes in corners.items() if boxes})


def add_boxes(folder: Folder, path: pathlib.Path) -> Folder:
    """Gives the clips of a data set their boxes.

    A clip without one is a problem of the result; a box without a clip is a warning.

    Raises:
      UserError: see `read_boxes`, `BoxFile.match`.
    """
    file = read_boxes(path)
    found = file.match(clip.path for clip in folder.clips)
    missing = dict.fromkeys(clip.path for clip in folder.clips if clip.path not in found)
    used = {file.name_of(video) for video in found}
    unused = [name for name in file.boxes if name not in used]
    warnings = (f"{path}: {len(unused)} boxes are of no clip, such as {unused[0]}",) if unused else ()
    return dataclasses.replace(
        folder,
        clips=tuple(dataclasses.replace(clip, box=found.get(clip.path)) for clip in folder.clips),
        fingerprint=hashlib.sha256((folder.fingerprint + repr(sorted(file.boxes.items()))).encode()).hexdigest()[:16],
        problems=(*folder.problems, *(f"{path} has no box of {video}" for video in missing)),
        warnings=(*folder.warnings, *warnings),
    )


def _numbers(texts: Sequence[str]) -> list[float]:
    """The edges of a box; an empty list where they are none."""
    try:
        x0, y0, x1, y1 = values = [float(text) for text in texts]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) and x0 < x1 and y0 < y1 else []


def _around(boxes: Sequence[Sequence[float]], in_shares: bool) -> Box:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return Box(min(x0), min(y0), max(x1), max(y1), in_shares)
