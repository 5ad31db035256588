"""MMA-52's untrimmed videos as clips: windows of a few seconds with all their labels; and MMA-82's, of any domain."""

import collections
import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from tfds_ma52 import folder as folder_lib
from tfds_ma52 import labels as labels_lib
from tfds_ma52.class_checks import GivenId, check_classes
from tfds_ma52.class_names import ClassNames
from tfds_ma52.errors import UserError, report
from tfds_ma52.folder import Folder, ListedClip
from tfds_ma52.mma82 import find_label_file
from tfds_ma52.splits import ALL_SPLITS, DOMAIN_SPLITS, REQUIRED_SPLITS, SPLITS, role_of
from tfds_ma52.tables import read_csv
from tfds_ma52.untrimmed import LONGEST, Action, Video, check_windows, window_clip, windows

SPLIT_FILES = ("{split}.csv", "annotations/{split}.csv")
WHOLE_FILES = ("annotations.json", "annotations/annotations.json")
VIDEO_FOLDERS = (".", "videos", "{split}", "videos_{split}")
COLUMNS = ("video_id", "start_frame", "end_frame", "class", "total_frames", "fps")

_log = logging.getLogger(__name__)

_SUBSETS = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test", "testing": "test"}
_TOLERANCE = 0.1  # seconds by which an action may end after its video
_SAME_TIME = 0.1  # seconds; a frame of 29 and of 30 a second is not at the same time
_MISSING = """\
{root} has no annotations of MMA-52: it must hold {root}/train.csv and {root}/val.csv with the header \
id,video_id,start_frame,end_frame,class,total_frames,fps or {root}/annotations.json (also under annotations/), or name \
other files with {{flag}}"""


def read_folder(
    root: pathlib.Path, *, window: float, stride: float, min_overlap: float, video_folder: str = "", list_file: str = ""
) -> Folder:
    """Reads the annotations of a folder as windows.

    A video's windows start every `stride` seconds from its start, as long as they lie inside it; where a rest of more
    than about half a frame remains, one more ends with the video. A video shorter than a window is one. Windows without
    any action are kept.

    Args:
      root: the folder.
      window: seconds of a window.
      stride: seconds between the starts of two.
      min_overlap: an action labels a window if they share this part of the shorter of the two.
      video_folder: the folder of a split's videos, such as "clips_{split}"; "" searches the default locations.
      list_file: a split's csv file, such as "lists/{split}.csv", or a json file of all; "" searches the default
        locations.

    Raises:
      UserError: the folder or its annotations are missing, or a number is out of range.
    """
    check_windows(window, stride, min_overlap)
    read = _read(root, list_file)
    hidden = hidden_splits(read.videos)
    clips: list[ListedClip] = []
    for video in read.videos:
        path, overlap = find_video(root, video, video_folder), None if video.split in hidden else min_overlap
        spans, subject = windows(video.duration, window, stride), folder_lib.subject_of(path.name)
        clips += [window_clip(path, video, subject, span, overlap) for span in spans]
    problems, warnings = read.check_classes(root, folder_lib.occurring(clips))
    settings = f"{window:g} {stride:g} {min_overlap:g}"
    digest = folder_lib.digest([read.label_file, *read.files.values()], settings)
    return Folder(read.labels, (), tuple(clips), digest, tuple(problems), warnings)


def read_videos(root: pathlib.Path, *, list_file: str = "") -> tuple[labels_lib.LabelSet, tuple[Video, ...]]:
    """Reads the annotations of a folder: its classes and videos.

    Args:
      root: the folder.
      list_file: see `read_folder`.

    Returns:
      The classes, and the videos of all splits. Those of a test split whose actions are hidden have none.

    Raises:
      UserError: the folder or its annotations are missing, or are wrong; it lists all problems.
    """
    read = _read(root, list_file)
    hidden = hidden_splits(read.videos)
    videos = tuple(dataclasses.replace(v, actions=[]) if v.split in hidden else v for v in read.videos)
    occurring = {role: {a.class_id for v in videos if role_of(v.split) == role for a in v.actions} for role in SPLITS}
    problems, warnings = read.check_classes(root, occurring)
    if problems:
        raise UserError(report(f"the annotations of {root} cannot be used", problems))
    for warning in warnings:
        _log.warning(warning)
    return read.labels, videos


def find_video(root: pathlib.Path, video: Video, video_folder: str = "") -> pathlib.Path:
    """The file of a video of `read_videos`, or where it should lie if there is none.

    Args:
      root: the folder.
      video: one of its annotations.
      video_folder: see `read_folder`.
    """
    folders = [video_folder] if video_folder else VIDEO_FOLDERS
    return folder_lib.find_video(root, folders, video.split, _file_name(video))


def hidden_splits(videos: Collection[Video]) -> set[str]:
    """The splits whose actions are hidden, see `is_hidden`."""
    return {split for split in ALL_SPLITS if is_hidden(split, videos)}


def is_hidden(split: str, videos: Iterable[Video]) -> bool:
    """Whether the actions of a test split are hidden: there are none but dummies.

    Dummies are of class 0; or, as in MMA-52's test.csv, one a video, of any class, all at the same time.
    """
    if role_of(split) != "test":
        return False
    actions = [video.actions for video in videos if video.split == split]
    known = [action for of_video in actions for action in of_video]
    if not any(action.class_id for action in known):
        return True
    starts, ends = ([getattr(action, name) for action in known] for name in ("start", "end"))
    same = max(max(starts) - min(starts), max(ends) - min(ends)) < _SAME_TIME
    return same and len(known) > 1 and max(map(len, actions)) == 1


@dataclasses.dataclass(frozen=True)
class _Annotations:
    """What the files of a folder say.

    Attributes:
      labels: the classes.
      videos: of all splits.
      files: the annotations, by split.
      label_file: of the classes' names; None where there is none.
      given: the classes that were ids.
      problems: the errors so far.
      warnings: of what has been read otherwise than it is written.
    """

    labels: labels_lib.LabelSet
    videos: tuple[Video, ...]
    files: dict[str, pathlib.Path]
    label_file: pathlib.Path | None
    given: list[GivenId]
    problems: list[str]
    warnings: tuple[str, ...]

    def check_classes(self, root: pathlib.Path, occurring: dict[str, set[int]]) -> tuple[list[str], tuple[str, ...]]:
        """All problems, and the warnings, given the classes that occur in each split."""
        problems, warnings = check_classes(
            root, self.labels, occurring, self.given, self.problems, own_names=self.label_file is not None
        )
        return problems, (*self.warnings, *warnings)


def _read(root: pathlib.Path, list_file: str) -> _Annotations:
    files = folder_lib.find_annotations(
        root, list_file, SPLIT_FILES, WHOLE_FILES, what="MMA-52", missing=_MISSING, splits=ALL_SPLITS
    )
    of_domains = any(split in DOMAIN_SPLITS for split in files)
    label_file = find_label_file(root) if of_domains else folder_lib.find_first(root, folder_lib.LABEL_FILES)
    readable, problems = folder_lib.read_label_file(label_file)
    labels = readable or labels_lib.MA52
    classes = _Classes(ClassNames(labels.names))
    videos: dict[tuple[str, str], Video] = {}
    for split, path in files.items():
        reader = _read_csv if split else _read_json
        for video in reader(path, split, classes, problems):
            videos[video.split, video.name] = video
    warnings = _merge_repeats(videos.values(), labels)
    problems += _check_splits(videos.values(), files) + _check_tests(videos.values())
    return _Annotations(labels, tuple(videos.values()), files, label_file, classes.given, problems, warnings)


def _merge_repeats(videos: Iterable[Video], labels: labels_lib.LabelSet) -> tuple[str, ...]:
    """Lets an action that is there more than once, with the same class and times, count once; says so."""
    repeated = []
    for video in videos:
        kept = list(dict.fromkeys(video.actions))
        counts = collections.Counter(video.actions)
        repeated += [(video, action) for action in kept if counts[action] > 1]
        video.actions[:] = kept
    if not repeated:
        return ()
    video, action = repeated[0]
    count = "an action is" if len(repeated) == 1 else f"{len(repeated)} actions are"
    first = f"{labels.names[action.class_id]} of {video.name}, {action.start:.2f} to {action.end:.2f} s"
    return (f"{video.location}: {count} there twice, with the same class and times, and counted once: {first}",)


@dataclasses.dataclass
class _Classes:
    """Reads the classes of actions.

    Attributes:
      names: those of the classes.
      given: the classes that were ids, so far.
    """

    names: ClassNames
    given: list[GivenId] = dataclasses.field(default_factory=list)

    def read(self, text: str, split: str, location: str) -> int | None:
        """The class of an action; None where a test split does not give it.

        Raises:
          ValueError: there is no such class.
        """
        text = " ".join(text.split())
        if self.names.is_missing(text):
            if role_of(split) == "test":
                return None
            raise ValueError("the class is missing")
        number = self.names.id_of(text)
        if number is not None:
            self.given.append(GivenId(split, location, number))
        return self.names.read(text, "label")


def _read_csv(path: pathlib.Path, split: str, classes: _Classes, problems: list[str]) -> Iterator[Video]:
    videos: dict[str, Video] = {}
    lengths: dict[str, tuple[str, str]] = {}
    for row in read_csv(path, COLUMNS, problems):
        try:
            fields = {name: value.strip() for name, value in row.fields.items()}
            name, length = folder_lib.slashed(fields["video_id"]), (fields["total_frames"], fields["fps"])
            first, last, frames, fps = (
                _number(fields[column], column) for column in ("start_frame", "end_frame", "total_frames", "fps")
            )
            if problem := folder_lib.invalid_name(name, path.parent) if name else "the video_id is missing":
                raise ValueError(problem)
            if not 0.1 <= fps <= 10_000 or not 1 <= frames <= fps * LONGEST:
                raise ValueError(
                    f"total_frames is {frames:g} and fps {fps:g}; expected 1 frame to a day of them, 0.1 to 10,000 a "
                    "second"
                )
            if lengths.setdefault(name, length) != length:
                raise ValueError(f"total_frames and fps are {', '.join(length)}, but {', '.join(lengths[name])} above")
            video = videos.setdefault(name, Video(name, split, frames / fps, row.location, []))
            _add_action(video, classes.read(fields["class"], split, row.location), first / fps, last / fps)
        except ValueError as error:
            problems.append(f"{row.location}: {error}")
    yield from videos.values()


def _read_json(path: pathlib.Path, _: str, classes: _Classes, problems: list[str]) -> Iterator[Video]:
    try:
        content = json.loads("\n".join(labels_lib.read_lines(path)), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError, UserError) as error:
        problems.append(f"{path}: not readable as json ({error})")
        return
    if not isinstance(content, dict) or not content:
        problems.append(f"{path}: expected an object of videos, {{video: {{subset, duration, actions}}}}")
        return
    for key, entry in content.items():
        location = f"{path}: {key if key.isprintable() else repr(key)}"
        name = folder_lib.slashed(key)
        try:
            subset = str(entry["subset"])
            if subset.lower() not in _SUBSETS:
                raise ValueError(f"subset is {subset!r}; expected train, val or test")
            duration = _number(entry["duration"], "duration")
            if not 0 < duration <= LONGEST:
                raise ValueError(f"duration is {duration:g}; it must be above 0 and at most a day, in seconds")
            if problem := folder_lib.invalid_name(name, path.parent) if name.strip() else "the video's name is missing":
                raise ValueError(problem)
            if name != key and name in content:
                raise ValueError(f"the video is there as {name!r} too")
            video = Video(name, _SUBSETS[subset.lower()], duration, location, [])
            actions = [(action[0], action[1], action[2]) for action in entry["actions"]]
        except ValueError as error:
            problems.append(f"{location}: {error}")
            continue
        except (KeyError, TypeError, IndexError):
            problems.append(f"{location}: expected subset, duration and actions, [[class, start, end], ...]")
            continue
        for number, (text, start, end) in enumerate(actions, 1):
            try:
                class_id = classes.read(str(text), video.split, f"{location}, action {number}")
                _add_action(video, class_id, _number(start, "start"), _number(end, "end"))
            except ValueError as error:
                problems.append(f"{location}, action {number}: {error}")
        yield video


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"{repeated!r} is there twice")
    return content


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what} is {value!r}; expected a number") from error
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{what} is {value!r}; expected a number from 0 on")
    return number


def _add_action(video: Video, class_id: int | None, start: float, end: float) -> None:
    """Adds an action to a video; ValueError where it cannot be. A dummy of a test video is added as it is.

    Without a class none is added: the row stands for the video.
    """
    if role_of(video.split) != "test":  # whose rows may be dummies, see `_check_tests`
        _check_times(video, start, end)
    if class_id is not None:
        video.actions.append(Action(class_id, start, end))


def _check_times(video: Video, start: float, end: float) -> None:
    if start >= end:
        raise ValueError(f"the action starts at {start:.2f} s, but ends at {end:.2f} s")
    if end > video.duration + _TOLERANCE:
        raise ValueError(f"the action ends at {end:.2f} s, but the video at {video.duration:.2f} s")


def _check_tests(videos: Collection[Video]) -> list[str]:
    """A line for each action with impossible times in a test split whose actions are not hidden."""
    problems, hidden = [], hidden_splits(videos)
    for video in videos:
        for action in video.actions if role_of(video.split) == "test" and video.split not in hidden else ():
            try:
                _check_times(video, action.start, action.end)
            except ValueError as error:
                problems.append(f"{video.location}: {video.name}: {error}")
    return problems


def _check_splits(videos: Iterable[Video], files: dict[str, pathlib.Path]) -> list[str]:
    """A line for each split without videos, and for each video in more than one, or under two names."""
    found: dict[str, list[Video]] = collections.defaultdict(list)
    for video in videos:
        found[_file_name(video)].append(video)
    problems = []
    for first, *others in found.values():
        for video in others[-1:]:
            same = video.name == first.name
            where = f"also in split {first.split}" if same else f"the file of {first.name} ({first.location}) too"
            problems.append(f"{video.location}: {video.name} is {where}")
    present = {video.split for video in videos}
    if "" in files and present:
        problems += [f"{files['']}: no video is of subset {s}" for s in REQUIRED_SPLITS if s not in present]
    return problems


def _file_name(video: Video) -> str:
    return video.name if pathlib.PurePath(video.name).suffix else f"{video.name}.mp4"
