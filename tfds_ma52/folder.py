"""Reads a folder in MA-52's layout: which clips it holds, with which labels, and what is wrong with it."""

import collections
import dataclasses
import hashlib
import pathlib

from tfds_ma52 import labels as labels_lib
from tfds_ma52.errors import UserError

SPLITS = ("train", "val", "test")
REQUIRED_SPLITS = ("train", "val")
# The places where the downloads of MA-52 have their parts, relative to the folder.
VIDEO_FOLDERS = ("{split}", "videos_{split}")
LIST_FILES = ("{split}_list_videos.txt", "annotations/{split}_list_videos.txt")
LABEL_FILES = ("label_name.txt", "annotations/label_name.txt")

HIDDEN_LABEL = -1  # what a clip without a public label is stored with
_LISTED_PROBLEMS = 200  # more lines than this say nothing more

MISSING_DATA = """\
{reason} MA-52 is gated: request it with the form at https://github.com/VUT-HFUT/Micro-Action (non-commercial research \
only), unpack its zip files into one folder and name that folder with {how}. The folder must hold the clips as \
{{train,val,test}}/*.mp4 or videos_{{train,val,test}}/*.mp4 and the lists {{train,val,test}}_list_videos.txt \
('<name>.mp4 <label>' a line) either beside them or under annotations/; the test part and label_name.txt may be \
missing. To see everything work without MA-52, run: \
python -m manet_jax.main --config configs/ma52_synthetic.py --workdir runs/first"""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One line of a list file.

    Attributes:
      path: the video file.
      video_id: its name as the list has it, with the ending.
      split: train, val or test.
      label: the class id, or HIDDEN_LABEL.
      subject: the participant, the first field of `SSSS_VV_NNNN.mp4`; "" where the name has no such field.
      place: `file:line` of the list.
    """

    path: pathlib.Path
    video_id: str
    split: str
    label: int
    subject: str
    place: str


@dataclasses.dataclass(frozen=True)
class Folder:
    """A data set on disk, before it is built.

    Attributes:
      labels: its classes and groups.
      clips: every clip of its lists, in their order.
      fingerprint: a digest of lists and label names: the same for the same data set wherever it lies.
    """

    labels: labels_lib.Labels
    clips: tuple[Clip, ...]
    fingerprint: str


def read_folder(root: pathlib.Path, *, video_folder: str = "", list_file: str = "") -> Folder:
    """Reads the lists of a folder in MA-52's layout.

    Args:
      root: the folder.
      video_folder: where a split's clips lie, such as "clips_{split}"; "" looks for the usual places.
      list_file: where a split's list lies, such as "lists/{split}.txt"; "" looks for the usual places.

    Raises:
      UserError: the folder or a list is missing, or lines are malformed, repeated or out of range; all are named.
    """
    root = root.expanduser()
    how = "--manual_dir (python -m tfds_ma52) or --config.data.manual_dir (manet_jax.main)"
    if not root.is_dir():
        raise UserError(MISSING_DATA.format(reason=f"There is no folder {root}.", how=how))
    list_files = {split: _first_existing(root, list_file, LIST_FILES, split) for split in SPLITS}
    missing = [split for split in REQUIRED_SPLITS if list_files[split] is None]
    if missing:
        wanted = list_file or " or ".join(LIST_FILES)
        reason = f"{root} has no list for {' and '.join(missing)} (looked for {wanted})."
        raise UserError(MISSING_DATA.format(reason=reason, how=how))

    label_file = _first_existing(root, "", LABEL_FILES)
    labels = labels_lib.read_labels(label_file) if label_file else labels_lib.MA52
    clips, problems = [], []
    for split, path in list_files.items():
        if path is None:
            continue
        videos = _first_existing(root, video_folder, VIDEO_FOLDERS, split)
        if videos is None:
            wanted = video_folder or " or ".join(VIDEO_FOLDERS)
            problems.append(f"{path}: its clips have no folder; looked for {wanted.format(split=split)} in {root}")
            continue
        clips += _read_list(path, split, videos, labels, problems)
    problems += _repeated(clips)
    if problems:
        raise UserError(report(f"{root} cannot be built", problems))

    digest = hashlib.sha256()
    for path in [label_file, *list_files.values()]:
        digest.update(b"\0" if path is None else path.read_bytes().replace(b"\r\n", b"\n"))
    return Folder(labels, tuple(clips), digest.hexdigest()[:16])


def report(title: str, problems: list[str]) -> str:
    """One text that counts and lists problems, a line each."""
    lines = [f"{title}: {len(problems)} problem{'s' * (len(problems) > 1)}", *problems[:_LISTED_PROBLEMS]]
    if len(problems) > _LISTED_PROBLEMS:
        lines.append(f"... and {len(problems) - _LISTED_PROBLEMS} more of the same kinds")
    return "\n  ".join(lines)


def _first_existing(root: pathlib.Path, wanted: str, usual: tuple[str, ...], split: str = "") -> pathlib.Path | None:
    paths = (root / pattern.format(split=split) for pattern in ([wanted] if wanted else usual))
    return next((path for path in paths if path.exists()), None)


def _read_list(
    path: pathlib.Path, split: str, videos: pathlib.Path, labels: labels_lib.Labels, problems: list[str]
) -> list[Clip]:
    clips, lines = [], path.read_text(encoding="utf-8-sig").splitlines()
    if not any(line.strip() for line in lines):
        problems.append(f"{path}: the list is empty")
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        name = name.strip()
        if not name or not label.lstrip("-").isdecimal():
            problems.append(f"{place}: expected '<name>.mp4 <label>', got {line!r}")
        elif pathlib.PurePath(name).is_absolute() or ".." in pathlib.PurePath(name).parts:
            problems.append(f"{place}: {name!r} lies outside {videos}")
        elif not 0 <= int(label) < len(labels.names):
            problems.append(f"{place}: label {label} is outside 0..{len(labels.names) - 1}")
        else:
            subject = name.partition("_")[0] if "_" in name else ""
            clips.append(Clip(videos / name, name, split, int(label), subject, place))
    # The official test list hides its labels behind a 0 on every line.
    if split == "test" and not any(clip.label for clip in clips):
        clips = [dataclasses.replace(clip, label=HIDDEN_LABEL) for clip in clips]
    return clips


def _repeated(clips: list[Clip]) -> list[str]:
    places = collections.defaultdict(list)
    for clip in clips:
        places[clip.path].append(clip.place)
    return [
        f"{where[-1]}: {path.name} is listed more than once (also {', '.join(where[:-1])})"
        for path, where in places.items()
        if len(where) > 1
    ]
