"""Annotation files of clips with several labels and emotions.

A file has the columns `video,labels,emotion`, one clip a row; labels are separated by `;`, the emotion may be missing.
"""

import csv
import dataclasses
import difflib
import io
import pathlib
from collections.abc import Callable, Sequence

from tfds_ma52 import folder as folder_lib
from tfds_ma52 import labels as labels_lib
from tfds_ma52.errors import UserError
from tfds_ma52.folder import HIDDEN_LABEL, REQUIRED_SPLITS, SPLITS, Folder, ListedClip

SPLIT_FILES = ("{split}.csv", "annotations/{split}.csv")
WHOLE_FILES = ("annotations.csv", "annotations/annotations.csv")  # with a column `split`
VIDEO_FOLDERS = (".", "videos", "{split}", "videos_{split}")
EMOTION_FILES = ("emotion_name.txt", "annotations/emotion_name.txt")

_MISSING = """\
{root} has no annotations: write {root}/annotations.csv with the header video,labels,emotion,split and a row for each \
clip, such as clips/a.mp4,nodding;touching nose,joy,train (emotion may be missing), or {root}/train.csv and \
{root}/val.csv without the column split, or name other files with {{flag}}"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a file, with its fields by column."""

    location: str
    fields: dict[str, str]


def read_folder(root: pathlib.Path, *, video_folder: str = "", list_file: str = "") -> Folder:
    """Reads the annotation files of a folder.

    Args:
      root: the folder.
      video_folder: the folder, itself in `root`, that the paths in a split's file are relative to, such as
        "clips_{split}"; "" searches the default locations.
      list_file: a split's file, such as "lists/{split}.csv", or, without {split}, one file with a column `split`; ""
        searches the default locations.

    Raises:
      UserError: the folder or its annotation files are missing.
    """
    files = _find_files(root, list_file)
    labels, emotion_names, problems = _read_names(root)
    rows = _read_rows(files, problems)
    emotions = _Names(emotion_names if emotion_names is not None else _occurring(rows))
    names = None if labels is None else _Names(labels.names)
    clips: list[ListedClip] = []
    for split, row in rows:
        clip = _read_clip(root, split, row, video_folder, names, emotions, problems)
        if clip:
            clips.append(clip)
    problems += _partly_hidden(clips) + folder_lib.repeated(clips)
    labels = labels or labels_lib.MA52
    return Folder(labels, emotions.names, tuple(clips), fingerprint(root, list_file=list_file), tuple(problems))


def fingerprint(root: pathlib.Path, *, list_file: str = "") -> str:
    """A digest of the annotation files and names, see `folder.fingerprint`.

    Raises:
      UserError: the folder or its annotation files are missing.
    """
    names = [folder_lib.find_first(root, locations) for locations in (folder_lib.LABEL_FILES, EMOTION_FILES)]
    return folder_lib.digest([*names, *_find_files(root, list_file).values()])


class _Names:
    """Names and their ids, also read from free spelling."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._ids = {_normal(name): i for i, name in enumerate(names)}

    def read(self, text: str, what: str) -> int:
        """Returns the id of a name, in any spelling of case and spaces, or else of an id in digits.

        Raises:
          ValueError: there is no such name or id.
        """
        if _normal(text) in self._ids:  # first, for a name may be a number
            return self._ids[_normal(text)]
        if text.isdecimal():
            if len(text) < 10 and int(text) < len(self.names):
                return int(text)
            raise ValueError(f"{what} {text[:20]} is outside 0..{len(self.names) - 1}")
        near = difflib.get_close_matches(_normal(text), self._ids, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {what} {text!r}{hint}")


def class_parser(names: Sequence[str]) -> Callable[[str], int]:
    """A function from a class, written as a name or an id, to its id; it raises ValueError for any other text."""
    known = _Names(names)
    return lambda text: known.read(" ".join(text.split()), "label")


def _normal(name: str) -> str:
    return " ".join(name.lower().split())


def _find_files(root: pathlib.Path, list_file: str) -> dict[str, pathlib.Path]:
    return folder_lib.find_annotations(
        root, list_file, SPLIT_FILES, WHOLE_FILES, what="the annotation files", missing=_MISSING
    )


def _read_names(root: pathlib.Path) -> tuple[labels_lib.LabelSet | None, tuple[str, ...] | None, list[str]]:
    """Returns the classes (None for a malformed file), the emotions (None without a file), and the problems."""
    labels, problems = folder_lib.read_label_file(folder_lib.find_first(root, folder_lib.LABEL_FILES))
    emotion_file = folder_lib.find_first(root, EMOTION_FILES)
    if emotion_file is None:
        return labels, None, problems
    emotions, more = folder_lib.read_label_file(emotion_file)
    return labels, emotions.names if emotions else (), problems + more


def _read_rows(files: dict[str, pathlib.Path], problems: list[str]) -> list[tuple[str, Row]]:
    """Returns the sound rows of all files with their splits; adds to `problems`."""
    found: list[tuple[str, Row]] = []
    for split, path in files.items():
        for row in read_csv(path, ("video", "labels", *(() if split else ("split",))), problems):
            of_row = split or row.fields["split"].strip().lower()
            if of_row in SPLITS:
                found.append((of_row, row))
            else:
                problems.append(
                    f"{row.location}: split is {row.fields['split']!r}; expected one of {', '.join(SPLITS)}"
                )
    missing = [split for split in REQUIRED_SPLITS if "" in files and all(split != present for present, _ in found)]
    if missing and not problems:
        problems.append(f"{files['']}: no row is of split {' nor of split '.join(missing)}; both are needed")
    return found


def read_csv(path: pathlib.Path, columns: Sequence[str], problems: list[str]) -> list[Row]:
    """Reads a csv file with a header of at least some columns; adds its errors to `problems`."""
    try:
        text = "\n".join(labels_lib.read_lines(path))
    except UserError as error:
        problems.append(str(error))
        return []
    reader = csv.reader(io.StringIO(text))
    lines: list[tuple[str, list[str]]] = []
    try:
        for fields in reader:
            lines.append((f"{path}:{reader.line_num}", fields))
    except csv.Error as error:
        problems.append(f"{path}:{reader.line_num}: not a csv row ({error})")
    else:
        if not lines:
            problems.append(f"{path}: the file is empty")
    if not lines:
        return []
    header = [name.strip().lower() for name in lines[0][1]]
    missing = [name for name in columns if name not in header]
    if missing:
        hint = "; or name the files train.csv and val.csv" if missing == ["split"] else ""
        problems.append(f"{path}:1: the header {','.join(header)!r} lacks {' and '.join(missing)}{hint}")
        return []
    rows: list[Row] = []
    for location, fields in lines[1:]:
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            problems.append(f"{location}: expected {len(header)} fields ({','.join(header)}), got {len(fields)}")
        else:
            rows.append(Row(location, dict(zip(header, fields, strict=True))))
    if not rows and not problems:
        problems.append(f"{path}: there is no row below the header")
    return rows


def _occurring(rows: Sequence[tuple[str, Row]]) -> list[str]:
    """The emotions of some rows in order: numbers by their value, then words by the alphabet."""

    def key(name: str) -> tuple[bool, int, str]:
        return not name.isdecimal(), len(name.lstrip("0")) if name.isdecimal() else 0, name

    return sorted({_normal(row.fields.get("emotion", "")) for _, row in rows} - {""}, key=key)


def _read_clip(
    root: pathlib.Path,
    split: str,
    row: Row,
    video_folder: str,
    labels: _Names | None,
    emotions: _Names,
    problems: list[str],
) -> ListedClip | None:
    """Reads one row; adds all its errors to `problems`. Without `labels` no label can be checked."""
    wrong: list[str] = []
    ids: list[int] = []
    emotion = HIDDEN_LABEL
    name = row.fields["video"].strip()
    if not name:
        wrong.append("the video is missing")
    elif problem := folder_lib.invalid_name(name, root):
        wrong.append(problem)
    texts = [text.strip() for text in row.fields["labels"].split(";")]
    hidden = split == "test" and texts == [""]
    for text in () if hidden else texts:
        if labels is None:
            break
        try:
            if not text:
                raise ValueError("a label is empty; expected names or ids with ';' between them")
            ids.append(labels.read(text, "label"))
        except ValueError as error:
            wrong.append(str(error))
    wrong += [f"label {labels.names[i]!r} is given twice" for i in dict.fromkeys(ids) if labels and ids.count(i) > 1]
    try:
        text = row.fields.get("emotion", "").strip()
        emotion = emotions.read(text, "emotion") if text else HIDDEN_LABEL
    except ValueError as error:
        wrong.append(str(error))
    problems += [f"{row.location}: {problem}" for problem in wrong]
    if wrong:
        return None
    video = folder_lib.find_video(root, [video_folder] if video_folder else VIDEO_FOLDERS, split, name)
    targets = None if hidden else tuple(sorted(ids))
    return ListedClip(video, name, split, targets, folder_lib.subject_of(name), row.location, emotion=emotion)


def _partly_hidden(clips: Sequence[ListedClip]) -> list[str]:
    """A line for each clip of a test split that hides its labels, where another gives them."""
    test = [clip for clip in clips if clip.split == "test"]
    if all(clip.labels is None for clip in test):
        return []
    text = "a label is empty; expected names or ids with ';' between them"
    return [f"{clip.location}: {text}" for clip in test if clip.labels is None]
