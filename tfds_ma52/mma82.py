"""The clips of MMA-82, each of one class and of one of four domains, which are splits such as `street_test`.

How the data set names files and classes is not published. The layout here is that of MA-52, a list for each split, or
one csv file with the columns `video,label,domain,split`; the classes are those of the data's own `label_name.txt`.
"""

import pathlib

from tfds_ma52 import folder as folder_lib
from tfds_ma52 import labels as labels_lib
from tfds_ma52.class_checks import GivenId, check_classes
from tfds_ma52.class_names import ClassNames
from tfds_ma52.errors import UserError
from tfds_ma52.folder import Folder, ListedClip
from tfds_ma52.splits import DOMAIN_SPLITS, DOMAINS, SPLITS
from tfds_ma52.tables import Row, read_csv

WHOLE_FILES = ("annotations.csv", "annotations/annotations.csv")
VIDEO_FOLDERS = ("{split}", "videos_{split}", "videos", ".")

_MISSING = f"""\
{{root}} has no lists of MMA-82: write {{root}}/annotations.csv with the header video,label,domain,split and a row for \
each clip, such as clips/a.mp4,nodding,laboratory,train, or a list for each split, such as \
laboratory_train_list_videos.txt with '<name>.mp4 <label>' a line, or name other files with {{{{flag}}}}; the domains are \
{", ".join(DOMAINS)}"""


def read_folder(root: pathlib.Path, *, video_folder: str = "", list_file: str = "") -> Folder:
    """Reads the lists or the csv file of a folder.

    Args:
      root: the folder.
      video_folder: the folder of a split's clips, such as "clips_{split}"; "" searches the default locations.
      list_file: a split's list, such as "lists/{split}.txt", or, without {split}, a csv file of all clips; "" searches
        the default locations.

    Raises:
      UserError: the folder, its lists or the names of its classes are missing.
    """
    files = _find_files(root, list_file)
    label_file = find_label_file(root)
    labels, problems = folder_lib.read_label_file(label_file)
    clips: list[ListedClip] = []
    given: list[GivenId] = []
    folders = (video_folder,) if video_folder else VIDEO_FOLDERS
    for split, path in files.items():
        if not split:
            clips += _read_csv(root, path, folders, labels, given, problems)
        elif videos := folder_lib.find_first(root, folders, split, pathlib.Path.is_dir):
            clips += folder_lib.read_list(path, split, videos, labels, given, problems)
        else:
            problems.append(f"{path}: its clips have no folder {video_folder.format(split=split)} in {root}")
    problems += folder_lib.repeated(clips)
    labels = labels or labels_lib.MA52
    problems, warnings = check_classes(root, labels, folder_lib.occurring(clips), given, problems, own_names=True)
    digest = folder_lib.digest([label_file, *files.values()], " ".join(files))
    return Folder(labels, (), tuple(clips), digest, tuple(problems), warnings)


def find_label_file(root: pathlib.Path) -> pathlib.Path:
    """The file of the names of MMA-82's classes.

    Raises:
      UserError: there is none.
    """
    found = folder_lib.find_first(root, folder_lib.LABEL_FILES)
    if found is None:
        raise UserError(
            f"{root} has no {folder_lib.LABEL_FILES[0]}: which id each of MMA-82's 82 classes has is not published, so "
            "the data must say it: write '<id><TAB><name><TAB><group>' a line, from id 0 on",
            field="manual_dir",
        )
    return found


def _find_files(root: pathlib.Path, list_file: str) -> dict[str, pathlib.Path]:
    """The list of each split that has one, or under "" the csv file of all."""
    return folder_lib.find_annotations(
        root,
        list_file,
        folder_lib.LIST_FILES,
        WHOLE_FILES,
        what="MMA-82",
        missing=_MISSING,
        splits=DOMAIN_SPLITS,
    )


def _read_csv(
    root: pathlib.Path,
    path: pathlib.Path,
    folders: tuple[str, ...],
    labels: labels_lib.LabelSet | None,
    given: list[GivenId],
    problems: list[str],
) -> list[ListedClip]:
    """Reads the csv file of all clips; adds to `given` and `problems`."""
    names = ClassNames(labels.names) if labels else None
    clips: list[ListedClip] = []
    for row in read_csv(path, ("video", "label", "domain", "split"), problems):
        try:
            clips.append(_read_row(root, row, folders, names, given))
        except ValueError as error:
            problems.append(f"{row.location}: {error}")
    clips = folder_lib.hide_test(clips)
    if names:
        problems += [f"{clip.location}: the label is missing" for clip in clips if clip.labels == ()]
    return clips


def _read_row(
    root: pathlib.Path, row: Row, folders: tuple[str, ...], names: ClassNames | None, given: list[GivenId]
) -> ListedClip:
    """Reads the row of a clip, which may have no label; ValueError where it is wrong."""
    fields = {name: " ".join(value.split()) for name, value in row.fields.items()}
    domain, role, text = fields["domain"].lower(), fields["split"].lower(), fields["label"]
    if domain not in DOMAINS:
        raise ValueError(f"domain is {fields['domain']!r}; expected one of {', '.join(DOMAINS)}")
    if role not in SPLITS:
        raise ValueError(f"split is {fields['split']!r}; expected one of {', '.join(SPLITS)}")
    name, split = folder_lib.slashed(fields["video"]), f"{domain}_{role}"
    if problem := folder_lib.invalid_name(name, root) if name else "the video is missing":
        raise ValueError(problem)
    targets = ()
    if names and not names.is_missing(text):
        number = names.id_of(text)
        if number is not None:
            given.append(GivenId(split, row.location, number))
        targets = (names.read(text, "label"),)
    path = folder_lib.find_video(root, folders, split, name)
    return ListedClip(path, name, split, targets, folder_lib.subject_of(name), row.location)
