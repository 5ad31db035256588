"""Annotation files of clips with several labels and emotions.

A file has the columns `video,labels,emotion`, one clip a row; labels are separated by `;`, `|` or `,`. A clip may be
without labels, and without an emotion.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

from tfds_ma52 import folder as folder_lib
from tfds_ma52 import labels as labels_lib
from tfds_ma52.class_checks import GivenId, check_classes
from tfds_ma52.class_names import MISSING, ClassNames, normal, without_fraction
from tfds_ma52.folder import HIDDEN_LABEL, REQUIRED_SPLITS, SPLITS, Folder, ListedClip
from tfds_ma52.tables import Row, read_csv

SPLIT_FILES = ("{split}.csv", "annotations/{split}.csv")
WHOLE_FILES = ("annotations.csv", "annotations/annotations.csv")  # with a column `split`
VIDEO_FOLDERS = (".", "videos", "{split}", "videos_{split}")
EMOTION_FILES = ("emotion_name.txt", "annotations/emotion_name.txt")
LABEL_MARKS = (";", "|", ",")  # between the labels of a cell

_MISSING = """\
{root} has no annotations: write {root}/annotations.csv with the header video,labels,emotion,split and a row for each \
clip, such as clips/a.mp4,nodding;touching nose,joy,train (emotion may be missing), or {root}/train.csv and \
{root}/val.csv without the column split, or name other files with {{flag}}"""


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
    emotions = ClassNames(_occurring(rows) if emotion_names is None else emotion_names)
    names = ClassNames(labels.names) if labels else None
    reader = _RowReader(names, emotions, own_emotions=emotion_names is not None)
    clips: list[ListedClip] = []
    for split, row in rows:
        clip = _read_clip(root, split, row, video_folder, reader, problems)
        if clip:
            clips.append(clip)
    clips = folder_lib.hide_test(clips)
    problems += folder_lib.repeated(clips)
    labels = labels or labels_lib.MA52
    own_names = folder_lib.find_first(root, folder_lib.LABEL_FILES) is not None
    problems, warnings = check_classes(
        root, labels, folder_lib.occurring(clips), reader.given, problems, own_names=own_names
    )
    name_files = [folder_lib.find_first(root, locations) for locations in (folder_lib.LABEL_FILES, EMOTION_FILES)]
    digest = folder_lib.digest([*name_files, *files.values()])
    return Folder(labels, emotions.names, tuple(clips), digest, tuple(problems), warnings)


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
        for row in read_csv(path, ("video", "labels", *(() if split else ("split",))), problems, optional=("emotion",)):
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


def _occurring(rows: Sequence[tuple[str, Row]]) -> list[str]:
    """The emotions of some rows in order: numbers by their value, then words by the alphabet."""

    def key(name: str) -> tuple[bool, int, str]:
        return not name.isdecimal(), len(name.lstrip("0")) if name.isdecimal() else 0, name

    found = {normal(without_fraction(row.fields.get("emotion", "").strip())) for _, row in rows}
    return sorted(found.difference(MISSING), key=key)


@dataclasses.dataclass
class _RowReader:
    """Reads the labels and the emotion of rows.

    Attributes:
      labels: None where they cannot be read for want of their names.
      emotions: those of a file, or all that occur.
      own_emotions: whether they are those of a file.
      given: the labels that were ids, so far.
    """

    labels: ClassNames | None
    emotions: ClassNames
    own_emotions: bool
    given: list[GivenId] = dataclasses.field(default_factory=list)

    def read_labels(self, split: str, row: Row, problems: list[str]) -> tuple[int, ...]:
        """The classes of a row; adds to `problems`."""
        text = row.fields["labels"].strip()
        if self.labels is None or self.labels.is_missing(text):
            return ()
        ids: list[int] = []
        try:
            parts = split_labels(text, self.labels)
        except ValueError as error:
            problems.append(str(error))
            return ()
        for part in parts:
            number = self.labels.id_of(part)
            if number is not None:
                self.given.append(GivenId(split, row.location, number))
            try:
                if not part:
                    raise ValueError("a label is empty; expected names or ids with ';' between them")
                ids.append(self.labels.read(part, "label"))
            except ValueError as error:
                problems.append(str(error))
        repeated = [i for i in dict.fromkeys(ids) if ids.count(i) > 1]
        problems += [f"label {self.labels.names[i]!r} is given twice" for i in repeated]
        return tuple(sorted(ids))

    def read_emotion(self, row: Row, problems: list[str]) -> int:
        """The emotion of a row, or HIDDEN_LABEL; adds to `problems`."""
        text = row.fields.get("emotion", "").strip()
        if self.emotions.is_missing(text) or not self.emotions.names:  # of a malformed file
            return HIDDEN_LABEL
        if row.delimiter == ";" and not self.own_emotions and self.labels and self.labels.is_name(text):
            problems.append(
                f"emotion {text!r} is a class: where ';' separates the fields, several labels need quotes or '|' "
                "between them; if it is an emotion, write emotion_name.txt"
            )
            return HIDDEN_LABEL
        try:
            return self.emotions.read(text, "emotion")
        except ValueError as error:
            problems.append(str(error))
            return HIDDEN_LABEL


def split_labels(text: str, classes: ClassNames) -> list[str]:
    """The labels in the text of a cell, with one of `LABEL_MARKS` between them, which a class's name may hold too.

    Raises:
      ValueError: the text can be read in more than one way.
    """
    if re.fullmatch(r"\d+,0+", text) and not classes.is_name(text):
        raise ValueError(f"labels {text!r} may be two, or one with a decimal comma: write ids without one, or with ';'")
    readings = [[part.strip() for part in text.split(mark)] for mark in LABEL_MARKS if mark in text]
    sound = [reading for reading in ([text], *readings) if all(map(classes.find, reading))]
    if len(sound) > 1:
        raise ValueError(f"labels {text!r} may be {' or '.join(map(' and '.join, (map(repr, r) for r in sound)))}")
    return (sound or readings or [[text]])[0]


def _read_clip(
    root: pathlib.Path, split: str, row: Row, video_folder: str, reader: _RowReader, problems: list[str]
) -> ListedClip | None:
    """Reads one row; adds all its errors to `problems`."""
    wrong: list[str] = []
    name = folder_lib.slashed(row.fields["video"].strip())
    if not name:
        wrong.append("the video is missing")
    elif problem := folder_lib.invalid_name(name, root):
        wrong.append(problem)
    targets = reader.read_labels(split, row, wrong)
    emotion = reader.read_emotion(row, wrong)
    problems += [f"{row.location}: {problem}" for problem in wrong]
    if wrong:
        return None
    video = folder_lib.find_video(root, [video_folder] if video_folder else VIDEO_FOLDERS, split, name)
    return ListedClip(video, name, split, targets, folder_lib.subject_of(name), row.location, emotion=emotion)
