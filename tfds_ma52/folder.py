"""The clips, labels and problems of a folder in MA-52's layout.

`annotations` and `mma52` read other layouts into the same `Folder`.
"""

import collections
import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable, Sequence

from tfds_ma52 import labels as labels_lib
from tfds_ma52.boxes import Box
from tfds_ma52.class_checks import GivenId, check_classes
from tfds_ma52.class_names import outside
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LABEL_FILES
from tfds_ma52.splits import REQUIRED_SPLITS, SPLITS, required, role_of

# The locations of MA-52's parts after download, relative to the folder.
VIDEO_FOLDERS = ("{split}", "videos_{split}")
LIST_FILES = ("{split}_list_videos.txt", "annotations/{split}_list_videos.txt")

_VIDEO_LINE = re.compile(r"(?P<name>\S.*\.\w+)\s+(?P<label>-?\d{1,9})(?:\.0+)?")
_IMAGES_LINE = re.compile(r"(?P<name>\S.*?)\s+(?P<num_frames>[1-9]\d{0,8})\s+(?P<label>-?\d{1,9})(?:\.0+)?")

HIDDEN_LABEL = -1  # the stored label of a clip whose label is not public

MISSING_DATA = """\
{reason} MA-52 is gated: request it with the form at https://github.com/VUT-HFUT/Micro-Action (non-commercial research \
only), unpack its zip files into one folder and name that folder with {{flag}}. The folder must hold the clips as \
{{train,val,test}}/*.mp4 or videos_{{train,val,test}}/*.mp4 and the lists {{train,val,test}}_list_videos.txt \
('<name>.mp4 <label>' a line) either beside them or under annotations/; the test part and label_name.txt may be \
missing. Without MA-52, python -m tfds_ma52.synthetic DIR draws a stand-in."""


@dataclasses.dataclass(frozen=True)
class ListedClip:
    """One line of a list file.

    Attributes:
      path: the video file, or a folder of images.
      video_id: its name as the list has it, with the ending; of a part of a video also which part.
      split: train, val or test, in MMA-82 of a domain.
      labels: the class ids, in MA-52's layout one; None where they are hidden.
      subject: the participant, the first field of `SSSS_VV_NNNN.mp4`; "" where the name has no such field.
      location: `file:line` of the list.
      emotion: its id, or HIDDEN_LABEL where it is unknown.
      span: of a part of a video, its start and end in seconds; None stands for the whole file.
      num_frames: how many images a folder of them must have; None where the list does not say.
      box: the part of the picture that is wanted; None stands for all of it.
    """

    path: pathlib.Path
    video_id: str
    split: str
    labels: tuple[int, ...] | None
    subject: str
    location: str
    emotion: int = HIDDEN_LABEL
    span: tuple[float, float] | None = None
    num_frames: int | None = None
    box: Box | None = None


@dataclasses.dataclass(frozen=True)
class Folder:
    """A data set on disk, before it is built.

    Attributes:
      labels: its classes and groups.
      emotions: their names; empty where there are none.
      clips: the clips of its lists, in their order.
      fingerprint: a digest of lists, names and settings: equal for equal data sets, wherever they lie.
      problems: the errors in label names and lists, each a text with file and line; errors in clips are not among them.
      warnings: of what may be meant otherwise, a sentence each.
    """

    labels: labels_lib.LabelSet
    emotions: tuple[str, ...]
    clips: tuple[ListedClip, ...]
    fingerprint: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def read_folder(root: pathlib.Path, *, video_folder: str = "", list_file: str = "") -> Folder:
    """Reads the lists of a folder in MA-52's layout.

    Args:
      root: the folder.
      video_folder: the folder of a split's clips, such as "clips_{split}"; "" searches the default locations.
      list_file: the list of a split, such as "lists/{split}.txt"; "" searches the default locations.

    Raises:
      UserError: the folder or a list is missing.
    """
    list_files, label_file = _find_lists(root, list_file)
    labels, problems = read_label_file(label_file)
    clips: list[ListedClip] = []
    given: list[GivenId] = []
    for split, path in list_files.items():
        videos = find_first(root, [video_folder] if video_folder else VIDEO_FOLDERS, split, pathlib.Path.is_dir)
        if videos is None:
            wanted = (video_folder or " or ".join(VIDEO_FOLDERS)).format(split=split)
            problems.append(f"{path}: its clips have no folder; looked for {wanted} in {root}")
        else:
            clips += read_list(path, split, videos, labels, given, problems)
    problems += repeated(clips)
    labels = labels or labels_lib.MA52
    problems, warnings = check_classes(root, labels, occurring(clips), given, problems, own_names=bool(label_file))
    return Folder(
        labels,
        (),
        tuple(clips),
        digest([label_file, *(list_files.get(split) for split in SPLITS)]),
        tuple(problems),
        warnings,
    )


def occurring(clips: Sequence[ListedClip]) -> dict[str, set[int]]:
    """The classes that occur in train, val and test, of all domains."""
    return {role: {i for clip in clips if role_of(clip.split) == role for i in clip.labels or ()} for role in SPLITS}


def read_label_file(path: pathlib.Path | None) -> tuple[labels_lib.LabelSet | None, list[str]]:
    """Returns the classes of a folder's file, MA-52's without one, None for a malformed one, and its problems."""
    try:
        return labels_lib.read_labels(path) if path else labels_lib.MA52, []
    except UserError as error:
        return None, str(error).splitlines()


def digest(files: Sequence[pathlib.Path | None], settings: str = "") -> str:
    """A digest of the text of some files and of settings, whatever the files' line ends."""
    value = hashlib.sha256(settings.encode())
    for path in files:
        value.update(b"\0" if path is None else _content(path))
    return value.hexdigest()[:16]


def _content(path: pathlib.Path) -> bytes:
    """The bytes of a text file, with the line end of Unix; of one in UTF-16 those that UTF-8 would have."""
    content = path.read_bytes()
    if content.startswith(labels_lib.UTF16_MARKS):
        content = content.decode("utf-16", errors="replace").encode()
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _find_lists(root: pathlib.Path, list_file: str) -> tuple[dict[str, pathlib.Path], pathlib.Path | None]:
    """Returns the list of each split that has one, and the file of label names if there is one."""
    if not root.is_dir():
        raise UserError(MISSING_DATA.format(reason=f"There is no folder {root}."), field="manual_dir")
    found = {split: find_first(root, [list_file] if list_file else LIST_FILES, split) for split in SPLITS}
    missing = [split for split in REQUIRED_SPLITS if found[split] is None]
    if missing:
        wanted = list_file or " or ".join(LIST_FILES)
        reason = f"{root} has no list for {' and '.join(missing)} (looked for {wanted})."
        raise UserError(MISSING_DATA.format(reason=reason), field="manual_dir")
    list_files = {split: path for split, path in found.items() if path is not None}
    return list_files, find_first(root, LABEL_FILES)


def find_first(
    root: pathlib.Path,
    patterns: Sequence[str],
    split: str = "",
    exists: Callable[[pathlib.Path], bool] = pathlib.Path.is_file,
) -> pathlib.Path | None:
    """The first location in a folder, of some given as patterns with {split}, that exists; None where none does.

    Raises:
      UserError: a pattern has something else in braces.
    """
    return next((path for path in [root / format_split(pattern, split) for pattern in patterns] if exists(path)), None)


def find_annotations(
    root: pathlib.Path,
    list_file: str,
    split_files: Sequence[str],
    whole_files: Sequence[str],
    *,
    what: str,
    missing: str,
    splits: Sequence[str] = SPLITS,
) -> dict[str, pathlib.Path]:
    """Returns the annotation file of each split, or under "" the one of all.

    Args:
      root: the folder.
      list_file: a split's file, with {split}, or the one of all; "" searches the default locations.
      split_files: the default locations of a split's file.
      whole_files: those of the one of all.
      what: the content of the folder, for the error.
      missing: the error where there are no files, with {root}; its field is "list_file".
      splits: those that there may be.

    Raises:
      UserError: the folder or its annotation files are missing.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: name the folder of {what} with {{flag}}.", field="manual_dir")
    wanted = (list_file,) if list_file else ()
    if not list_file or "{" in list_file:
        found = {split: find_first(root, wanted or split_files, split) for split in splits}
        of_splits = {split: path for split, path in found.items() if path}
        if all(split in of_splits for split in required(of_splits)):
            return of_splits
    whole = find_first(root, wanted or whole_files) if "{" not in list_file else None
    if not whole:
        raise UserError(missing.format(root=root), field="list_file")
    return {"": whole}


def format_split(pattern: str, split: str) -> str:
    """Fills in a split's name where a pattern has {split}.

    Raises:
      UserError: it has something else in braces.
    """
    try:
        return pattern.format(split=split)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{pattern!r} names no location: {{split}} is the only thing that may stand in braces"
        ) from error


def slashed(name: str) -> str:
    """The name of a video with `/` between folders, where Windows writes a backslash."""
    return name.replace("\\", "/")


def invalid_name(name: str, folder: pathlib.Path) -> str:
    """The fault in the name of a video that should lie in a folder; "" for a valid name."""
    path = pathlib.PurePath(name)
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:/", name):
        return f"{name!r} lies outside {folder}"
    one_line = name.splitlines() == [name] and "\0" not in name
    if not one_line or any(len(part.encode()) > 250 for part in path.parts) or len(name) > 1000:
        return f"{name[:40]!r}, of {len(name)} characters, can be no file's name"
    return ""


def find_video(root: pathlib.Path, folders: Sequence[str], split: str, name: str) -> pathlib.Path:
    """The first file of a name in some folders; that of the first folder where none exists, to be reported missing."""
    paths = [root / format_split(folder, split) / name for folder in folders]
    return next((path for path in paths if path.exists()), paths[0])


def subject_of(name: str) -> str:
    """The participant in a file name of MA-52's form; "" for any other name."""
    match = re.match(r"(\d+)_\d+_\d+\.", pathlib.PurePath(name).name)
    return match[1] if match else ""


def hide_test(clips: Sequence[ListedClip]) -> list[ListedClip]:
    """The clips; those of a test split in which none has a label with hidden labels."""
    labelled = {clip.split for clip in clips if clip.labels}
    hidden = {clip.split for clip in clips if role_of(clip.split) == "test"} - labelled
    return [dataclasses.replace(clip, labels=None) if clip.split in hidden else clip for clip in clips]


def read_list(
    path: pathlib.Path,
    split: str,
    videos: pathlib.Path,
    labels: labels_lib.LabelSet | None,
    given: list[GivenId],
    problems: list[str],
) -> list[ListedClip]:
    """Reads one list; adds to `given` and `problems`. Without `labels`, their range cannot be checked."""
    try:
        lines = labels_lib.read_lines(path)
    except UserError as error:
        problems.append(str(error))
        return []
    if not any(line.strip() for line in lines):
        problems.append(f"{path}: the list is empty")
    clips: list[ListedClip] = []
    for number, line in enumerate(lines, 1):
        location = f"{path}:{number}"
        if not line.strip():
            continue
        match = _VIDEO_LINE.fullmatch(line.strip()) or _IMAGES_LINE.fullmatch(line.strip())
        if not match:
            problems.append(
                f"{location}: expected '<name>.mp4 <label>' or '<folder> <num_frames> <label>', got {line!r}"
            )
            continue
        name, label = slashed(match["name"]), int(match["label"])
        num_frames = int(match["num_frames"]) if "num_frames" in match.groupdict() else None
        given.append(GivenId(split, location, label))
        if problem := invalid_name(name, videos):
            problems.append(f"{location}: {problem}")
        elif labels is not None and not 0 <= label < len(labels.names):
            problems.append(f"{location}: {outside('label', label, len(labels.names))}")
        elif num_frames and (videos / name).is_file():
            problems.append(f"{location}: {name} is a file, not a folder of {num_frames} images")
        else:
            subject = subject_of(name)
            clips.append(ListedClip(videos / name, name, split, (label,), subject, location, num_frames=num_frames))
    # The official test list hides its labels behind a 0 on every line.
    if role_of(split) == "test" and all(clip.labels == (0,) for clip in clips):
        clips = [dataclasses.replace(clip, labels=None) for clip in clips]
    return clips


def repeated(clips: Sequence[ListedClip]) -> list[str]:
    """A line for each video that is listed more than once."""
    locations: dict[pathlib.Path, list[str]] = collections.defaultdict(list)
    for clip in clips:
        locations[clip.path].append(clip.location)
    return [
        f"{where[-1]}: {path.name} is listed more than once (also {', '.join(where[:-1])})"
        for path, where in locations.items()
        if len(where) > 1
    ]
