"""Videos that people annotated with ELAN or BORIS, as a data set like MMA-52."""

import collections
import dataclasses
import functools
import hashlib
import pathlib
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tfds_ma52 import boris, elan, person_splits, untrimmed, video
from tfds_ma52 import folder as folder_lib
from tfds_ma52 import labels as labels_lib
from tfds_ma52.class_checks import check_classes
from tfds_ma52.class_names import ClassNames, normal
from tfds_ma52.errors import UserError, report
from tfds_ma52.folder import Folder
from tfds_ma52.observations import Annotation, Observation
from tfds_ma52.tables import read_csv
from tfds_ma52.untrimmed import Action, Video

CLASS_FILE = "classes.csv"
SPLIT_FILE = "splits.csv"
VIDEO_FOLDERS = (".", "videos")  # beside the annotation file, and these

_ANY = "*"
_TOLERANCE = 0.1  # seconds by which an action may end after its video
_MISSING = (
    "{root} has no annotations: it must hold files of ELAN (.eaf), or tables that BORIS exported (.csv, .tsv), beside "
    "the videos"
)


_Listed = Callable[[pathlib.Path], Mapping[str, Sequence[pathlib.Path]]]


@dataclasses.dataclass(frozen=True)
class _Set:
    """What a folder holds; `persons` has a name, perhaps "", for each video."""

    labels: labels_lib.LabelSet
    own_names: bool
    videos: tuple[Video, ...]
    persons: Mapping[str, str]
    fingerprint: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def read_folder(
    root: pathlib.Path, *, window: float, stride: float, min_overlap: float, video_folder: str = "", list_file: str = ""
) -> Folder:
    """Reads the annotations of a folder as windows, which are those of `mma52.read_folder`.

    A file of ELAN is of the video of its own name, or else of the one that it links; an observation of BORIS is of the
    video that it names. The folders that they name are those of another computer: only the file's name counts.
    `classes.csv` and `splits.csv` are read as `read_videos` says.

    Args:
      root: the folder; annotation files may lie in folders in it.
      window: seconds of a window.
      stride: seconds between the starts of two.
      min_overlap: an action labels a window if they share this part of the shorter of the two.
      video_folder: where the videos lie in the folder; "" searches beside the annotation file and `VIDEO_FOLDERS`.
      list_file: the table of splits; "" stands for `splits.csv`, if it is there.

    Raises:
      UserError: the folder has no annotations, or a number is out of range.
    """
    untrimmed.check_windows(window, stride, min_overlap)
    found = _read(root, video_folder, list_file)
    clips = [
        untrimmed.window_clip(root / each.name, each, found.persons[each.name], span, min_overlap)
        for each in found.videos
        for span in untrimmed.windows(each.duration, window, stride)
    ]
    problems, warnings = check_classes(
        root, found.labels, folder_lib.occurring(clips), [], found.problems, own_names=found.own_names
    )
    fingerprint = hashlib.sha256(f"{found.fingerprint} {window:g} {stride:g} {min_overlap:g}".encode()).hexdigest()[:16]
    return Folder(found.labels, (), tuple(clips), fingerprint, tuple(problems), (*found.warnings, *warnings))


def read_videos(
    root: pathlib.Path, *, video_folder: str = "", list_file: str = ""
) -> tuple[labels_lib.LabelSet, tuple[Video, ...]]:
    """Reads the videos of a folder with their actions; a video's name is its path in the folder.

    Values are class names, in any spelling of case and spaces, unless `classes.csv` maps them. It has the columns
    `value` and `class`, perhaps `tier`; a row without a class leaves annotations out, `*` stands for any value or tier,
    and the most exact row counts: `speech,*,` leaves out the tier "speech". Classes are those of `label_name.txt`, or
    MA-52's.

    `splits.csv` has the columns `video` and `split`, or `video` and `person`, or all three. Without splits, a fifth of
    the persons make up val, drawn by their names, and the others train. Without persons these are the first fields of
    names like `0012_01_0001.mp4`, or else each video counts as one.

    Args:
      root: the folder.
      video_folder: see `read_folder`.
      list_file: likewise.

    Raises:
      UserError: with all problems.
    """
    found = _read(root, video_folder, list_file)
    if found.problems:
        raise UserError(report(f"the annotations in {root} cannot be read", found.problems))
    return found.labels, found.videos


def _read(root: pathlib.Path, video_folder: str, list_file: str) -> _Set:
    files, passed_over = _find_files(root, list_file)
    label_file = folder_lib.find_first(root, folder_lib.LABEL_FILES)
    readable, problems = folder_lib.read_label_file(label_file)
    labels = readable or labels_lib.MA52
    warnings = [f"{path} is no table of events of BORIS: it is not read" for path in passed_over]

    class_file = root / CLASS_FILE if (root / CLASS_FILE).is_file() else None
    values = _Values(ClassNames(labels.names), _read_classes(class_file, labels, problems))
    folders = [video_folder] if video_folder else VIDEO_FOLDERS
    listed = functools.cache(_list_videos)  # each folder once, rather than for each of its observations
    videos: dict[str, Video] = {}
    for observation in _observations(files, problems):
        each = _read_video(root, folders, observation, values, listed, problems)
        if each and each.name in videos:
            also = videos[each.name].location
            problems.append(f"{each.location}: {each.name} is annotated in {also} too: keep one of them")
        elif each:
            videos[each.name] = each
    if values.num_left_out:
        warnings.append(f"{class_file} leaves out {values.num_left_out} annotations")
    warnings += _without_annotations(root, videos)

    split_file = root / (list_file or SPLIT_FILE)
    split_file = split_file if list_file or split_file.is_file() else None
    places = person_splits.assign(split_file, list(videos), problems, warnings)
    persons = {name: places[name].person if name in places else "" for name in videos}
    for name, place in places.items():
        videos[name].split = place.split
    names = "\n".join(path.relative_to(root).as_posix() for path in files)
    fingerprint = folder_lib.digest([label_file, class_file, split_file, *files], names)
    return _Set(
        labels, bool(label_file), tuple(videos.values()), persons, fingerprint, tuple(problems), tuple(warnings)
    )


def _find_files(root: pathlib.Path, list_file: str) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The annotation files of a folder, and tables that are none.

    Raises:
      UserError: the folder or its annotation files are missing.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: name that of the annotated videos with {{flag}}", "manual_dir")
    if list_file and not (root / list_file).is_file():
        raise UserError(f"there is no table of splits {root / list_file}: name another with {{flag}}", "list_file")
    own = {root / CLASS_FILE, root / SPLIT_FILE, root / list_file}
    found = [path for path in _walk(root) if path not in own]
    tables = [path for path in found if path.suffix.lower() in boris.SUFFIXES]
    others = [path for path in tables if not boris.is_table(path)]
    left_out = {path for path in found if path.suffix.lower() not in (elan.SUFFIX, *boris.SUFFIXES)}.union(others)
    files = [path for path in found if path not in left_out]
    if not files:
        raise UserError(_MISSING.format(root=root), "manual_dir")
    return files, others


def _walk(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """The files in a folder and in those in it, but for hidden ones and built sets."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and parts[0] != "tfds" and not any(part.startswith(".") for part in parts):
            yield path


def _observations(files: Sequence[pathlib.Path], problems: list[str]) -> Iterator[tuple[pathlib.Path, Observation]]:
    for path in files:
        if path.suffix.lower() != elan.SUFFIX:
            yield from ((path, each) for each in boris.read_table(path, problems))
        elif observation := elan.read_eaf(path, problems):
            yield path, observation


@dataclasses.dataclass
class _Values:
    """Reads the classes of annotations.

    Attributes:
      names: those of the classes.
      rows: of `classes.csv`: the class of a tier and value in lower case; None leaves annotations out.
      num_left_out: how many were, so far.
    """

    names: ClassNames
    rows: Mapping[tuple[str, str], int | None]
    num_left_out: int = 0

    def read(self, annotation: Annotation) -> int | None:
        """The class of an annotation; None where it is left out.

        Raises:
          ValueError: there is no such class.
        """
        value, tier = annotation.value, normal(annotation.tier)
        bare = value.split("|")[0]  # without BORIS's modifiers
        exact = [(place, normal(text)) for text in (value, bare) for place in (tier, _ANY)]
        for key in (*exact, (tier, _ANY), (_ANY, _ANY)):
            if key in self.rows:
                self.num_left_out += self.rows[key] is None
                return self.rows[key]
        if not value:
            raise ValueError(f"the annotation is empty: name its class, or leave it out in {CLASS_FILE}")
        for text in (value, bare):
            if self.names.is_name(text):
                return self.names.read(text, "class")
        if self.names.id_of(value) is not None:  # of whatever list
            raise ValueError(f"{value!r} is a number, not a class: say in {CLASS_FILE} which class it is")
        try:
            return self.names.read(value, "class")
        except ValueError as error:
            raise ValueError(f"{error}; or name the class of this value in {CLASS_FILE}") from error


def _read_classes(
    path: pathlib.Path | None, labels: labels_lib.LabelSet, problems: list[str]
) -> dict[tuple[str, str], int | None]:
    names = ClassNames(labels.names)
    classes: dict[tuple[str, str], int | None] = {}
    for row in read_csv(path, ("value", "class"), problems, optional=("tier",)) if path else ():
        fields = {name: " ".join(field.split()) for name, field in row.fields.items()}
        key = normal(fields.get("tier") or _ANY), normal(fields["value"])
        try:
            if key in classes:
                raise ValueError(f"the value {fields['value']!r} is there twice")
            classes[key] = names.read(fields["class"], "class") if fields["class"] else None
        except ValueError as error:
            problems.append(f"{row.location}: {error}")
    return classes


def _read_video(
    root: pathlib.Path,
    folders: Sequence[str],
    found: tuple[pathlib.Path, Observation],
    values: _Values,
    listed: _Listed,
    problems: list[str],
) -> Video | None:
    """The video of an observation, not yet in a split; None for one that cannot be found or read."""
    file, observation = found
    try:
        path, origin = _find_video([file.parent, *(root / folder for folder in folders)], observation, listed)
        if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
            raise ValueError(f"its video {path} lies outside {root}: move it there")
        duration = video.estimate_duration(path)
        if not duration:
            raise ValueError(f"{path} does not say how long it is: convert it to mp4")
    except (ValueError, OSError, video.DamagedVideoError) as error:
        problems.append(f"{observation.location}: {error}")
        return None
    each = Video(path.relative_to(root).as_posix(), "", duration, observation.location, [])
    for annotation in observation.annotations:
        try:
            class_id = values.read(annotation)
            if class_id is not None:
                _add_action(each, Action(class_id, annotation.start + origin, annotation.end + origin))
        except ValueError as error:
            problems.append(f"{annotation.location}: {error}")
    return each


def _find_video(
    folders: Iterable[pathlib.Path], observation: Observation, listed: _Listed
) -> tuple[pathlib.Path, float]:
    """The file of an observation's video, and the second of it at which the tool's clock is 0.

    Raises:
      ValueError: there is none, or more than one.
    """
    folders = list(dict.fromkeys(folder for folder in folders if folder.is_dir()))
    names = {name: media for media in observation.media for name in (media.name, urllib.parse.unquote(media.name))}
    linked = [folder / name for name in names for folder in folders if (folder / name).is_file()]
    own = [path for folder in folders for path in listed(folder).get(observation.stem, ())]
    found = [path for path in own if path in linked] or own or linked
    if not found:
        wanted = [*names, *[f"{observation.stem}.mp4"] * bool(observation.stem)]
        where = ", ".join(map(str, folders))
        raise ValueError(f"its video is not there; looked for {' or '.join(map(repr, wanted))} in {where}")
    if len(set(found)) > 1:
        paths = ", ".join(sorted(map(str, set(found))))
        raise ValueError(f"it may be of several videos ({paths}): give it the name of its video")
    if len(observation.media) == 1:  # which may have another name there
        return found[0], observation.media[0].origin
    return found[0], names[found[0].name].origin if found[0].name in names else 0.0


def _list_videos(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """The videos of a folder by their names without the endings."""
    found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in video.SUFFIXES and path.is_file():
            found[path.stem].append(path)
    return found


def _add_action(each: Video, action: Action) -> None:
    if action.start < 0:
        raise ValueError(f"it starts {-action.start:.3f} s before the video")
    if action.end > each.duration + _TOLERANCE:
        raise ValueError(f"it ends at {action.end:.3f} s, but {each.name} at {each.duration:.3f} s")
    if action in each.actions:
        raise ValueError("the same class with the same times is there twice")
    each.actions.append(action)


def _without_annotations(root: pathlib.Path, videos: Mapping[str, Video]) -> list[str]:
    """A sentence on videos that have no annotation file, and one on those whose file has no annotation."""
    sentences: list[str] = []
    found = [path.relative_to(root).as_posix() for path in _walk(root) if path.suffix.lower() in video.SUFFIXES]
    if others := [name for name in found if name not in videos]:
        sentences.append(f"{_few(others)} without an annotation file: not in the set")
    if empty := [each.name for each in videos.values() if not each.actions]:
        sentences.append(f"{_few(empty)} without any action: all windows count as without actions")
    return sentences


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} video{'s' * (len(names) > 1)} ({', '.join(names[:3])}{more})"
