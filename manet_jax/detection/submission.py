"""The file of the challenge's second track, detection: a zip with one `prediction.csv`."""

import csv
import io
import math
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence

from manet_jax.detection.segments import Segment
from tfds_ma52.errors import UserError, report
from tfds_ma52.files import write_atomically, zipped

_FILE = "prediction.csv"
_COLUMNS = ["", "video_id", "t_start", "t_end", "class", "score"]
_SLACK = 0.01  # seconds by which a segment may end after its video, as the annotations' lengths are rounded


def write_submission(
    path: pathlib.Path,
    segments: Mapping[str, Sequence[Segment]],
    durations: Mapping[str, float],
    num_classes: int,
) -> None:
    """Writes the segments found in the videos of a split.

    Args:
      path: of the zip file.
      segments: of each video.
      durations: of each video of the split, in seconds.
      num_classes: of the challenge.

    Raises:
      UserError: the segments are not what `check_submission` accepts, or the file cannot be written. A file that was
        there stays as it is then.
    """
    rows = [
        [video, repr(float(each.start)), repr(float(each.end)), str(int(each.class_id)), repr(float(each.score))]
        for video, of_video in segments.items()
        for each in of_video
    ]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([_COLUMNS, *([str(i), *row] for i, row in enumerate(rows))])
    _check(str(path), table.getvalue(), durations, num_classes)
    try:
        write_atomically(path, zipped(_FILE, table.getvalue()))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): give another file") from error


def check_submission(path: pathlib.Path, durations: Mapping[str, float], num_classes: int) -> None:
    """Checks a file for the challenge.

    Args:
      path: of the zip file.
      durations: of each video of the split, in seconds.
      num_classes: of the challenge.

    Raises:
      UserError: it cannot be read, a video of the split has no row or another has one, or a row has an index, a time, a
        class or a score that cannot be; all of it is listed.
    """
    _check(str(path), _read(path), durations, num_classes)


def _read(path: pathlib.Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if names != [_FILE]:
                raise UserError(f"{path} holds {', '.join(names) or 'nothing'}; it must hold {_FILE} alone")
            return archive.read(_FILE).decode()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last where it has a password
        raise UserError(f"{path} is no sound zip file ({error}): give one that holds {_FILE}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {_FILE} is not UTF-8 text: save it as such") from error


def _check(name: str, text: str, durations: Mapping[str, float], num_classes: int) -> None:
    try:
        header, *rows = csv.reader(io.StringIO(text), strict=True) if text.strip() else [[]]
    except csv.Error as error:
        raise UserError(f"{name}: {_FILE} has a row that is not csv ({error})") from error
    if header != _COLUMNS:
        raise UserError(f"{name}: {_FILE} begins with {','.join(header)!r}; expected {','.join(_COLUMNS)!r}")
    problems = [f"row {i}: {fault}" for i, row in enumerate(rows) if (fault := _fault(i, row, durations, num_classes))]
    seen = {row[1] for row in rows if len(row) > 1}
    problems += [f"video {video} has no segment" for video in durations if video not in seen]
    if problems:
        raise UserError(report(f"{name} is no submission of these videos", problems))


def _fault(number: int, row: Sequence[str], durations: Mapping[str, float], num_classes: int) -> str:
    """What is wrong with a row; "" where nothing is."""
    if len(row) != len(_COLUMNS):
        return f"it has {len(row)} fields; expected {len(_COLUMNS)}"
    index, video, *numbers = row
    if index != str(number):
        return f"its index is {index!r}; expected {number}"
    if video not in durations:
        return f"the split has no video {video!r}"
    try:
        start, end, class_id, score = float(numbers[0]), float(numbers[1]), int(numbers[2]), float(numbers[3])
    except ValueError:
        return f"{', '.join(numbers)} are not a start, an end, a class and a score"
    if not all(map(math.isfinite, (start, end, score))):
        return f"{', '.join(numbers)} are not all finite"
    if not 0 <= start < end <= durations[video] + _SLACK:
        return f"it lasts from {start:g} to {end:g} s, in a video of {durations[video]:g} s"
    if not 0 <= class_id < num_classes:
        return f"its class is {class_id}; expected 0 to {num_classes - 1}"
    if not 0 <= score <= 1:
        return f"its score is {score:g}; expected 0 to 1"
    return ""
