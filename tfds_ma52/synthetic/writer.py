"""The synthetic set on disk: subjects, clip plans, files, lists."""

import contextlib
import csv
import dataclasses
import fcntl
import functools
import io
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm
from jaxtyping import UInt8

from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically
from tfds_ma52.labels import MA52_COUNTS, MA52_NAMES
from tfds_ma52.pool import process_pool
from tfds_ma52.synthetic import face, motions, skeleton
from tfds_ma52.synthetic import pro as pro_lib
from tfds_ma52.synthetic import untrimmed as untrimmed_lib
from tfds_ma52.synthetic.motions import FPS
from tfds_ma52.synthetic.untrimmed import PlannedVideo, draw_frames, plan_videos

# Subject ids of the splits; 205 people as in MA-52, of whom train and val there share 186.
_SUBJECTS = {
    "shared": {"train": range(1, 187), "val": range(1, 187), "test": range(1, 206)},
    "disjoint": {"train": range(1, 131), "val": range(131, 169), "test": range(169, 206)},
}
SUBJECTS = tuple(_SUBJECTS)
SPLITS = ("train", "val", "test")
FRAME_RATES = tuple(FPS // step for step in (1, 2, 3))  # every, every second or every third of the posed frames
_PARTIAL = ".partial"
_SETTINGS_FILE = "synthetic.json"
_LABELS_FILE = "label_name.txt"
# Raised whenever the same settings give other clips.
_VERSION = 5


@dataclasses.dataclass(frozen=True)
class PlannedClip:
    """One clip to write.

    Attributes:
      split: "train", "val" or "test".
      number: the clip's number within its split.
      acts: its micro-actions, MA-52's ids.
      subject: the person.
      emotion: of a Pro clip, an index of `pro.EMOTIONS`.
      expression: of a Pro clip, the emotion that the face expresses.
    """

    split: str
    number: int
    acts: tuple[int, ...]
    subject: int
    emotion: int | None = None
    expression: int | None = None

    @property
    def name(self) -> str:
        """File name; the test split's names are anonymous, as in MA-52."""
        if self.split == "test":
            return f"test{self.number:04d}.mp4"
        return f"{self.subject:04d}_{self.number // 10000 + 1:02d}_{self.number % 10000:04d}.mp4"


def write_synthetic(
    root: pathlib.Path,
    *,
    size: float,
    pro: bool = False,
    untrimmed: bool = False,
    subjects: str = "shared",
    test: bool = False,
    short_side: int = 256,
    frame_rate: int = FPS,
    seed: int = 0,
    processes: int = 0,
) -> None:
    """Writes a synthetic set in MA-52's layout; a complete folder is left alone, a partial one is completed.

    Args:
      root: the folder; made where it does not exist.
      size: clips of each class, as a share of MA-52's; at least one of each in every split. Of a Pro set, all clips;
        of an untrimmed one, videos as a share of `untrimmed.NUM_VIDEOS`.
      pro: several micro-actions and an emotion in every clip (`pro.py`), with csv files instead of lists.
      untrimmed: videos of a minute or two with many micro-actions (`untrimmed.py`), with MMA-52's csv files.
      subjects: "shared" between train and val, as in MA-52, or "disjoint".
      test: whether to write a test split too, with anonymous names and hidden labels.
      short_side: width of the frames in pixels, even; the height is 1.2 times that.
      frame_rate: frames a second, one of `FRAME_RATES`.
      seed: fixes everything.
      processes: how many to encode with; 0 takes as many as there are cores. The clips do not depend on it.

    Raises:
      UserError: a setting out of range, or a folder that holds something else.
    """
    settings = {
        "version": _VERSION,
        "size": float(size),
        "pro": pro,
        "untrimmed": untrimmed,
        "subjects": subjects,
        "test": test,
        "short_side": short_side,
        "frame_rate": frame_rate,
        "seed": seed,
    }
    checked = {"size": size, "pro": pro, "untrimmed": untrimmed, "subjects": subjects}
    check_settings(**checked, short_side=short_side, frame_rate=frame_rate, seed=seed)
    if processes < 0:
        raise UserError(f"processes is {processes}; give 0 for all cores, or a positive number.", field="processes")
    clips = _plan(settings)
    try:
        if _is_complete(root, settings):
            print(f"{root} already holds this synthetic set; nothing to do.", file=sys.stderr)
            return
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            if not _is_complete(root, settings):
                _write_all(clips, root, settings, processes or _cores())
    except OSError as error:
        raise UserError(
            f"{root}: cannot be read or written ({error.strerror or error}); give another folder."
        ) from error


def check_settings(
    *, size: float, pro: bool, untrimmed: bool, subjects: str, short_side: int, frame_rate: int, seed: int
) -> None:
    """Checks arguments of `write_synthetic`.

    Raises:
      UserError: one is out of range.
    """
    if not 0 < size <= 100:
        raise UserError(f"size is {size}; give a number above 0, up to 100.", field="size")
    if pro and untrimmed:
        raise UserError("pro and untrimmed are two sets; give one of them.", field="untrimmed")
    if subjects not in SUBJECTS:
        raise UserError(f"subjects is {subjects!r}; give one of {', '.join(SUBJECTS)}.", field="subjects")
    if frame_rate not in FRAME_RATES:
        known = ", ".join(map(str, FRAME_RATES))
        raise UserError(f"frame_rate is {frame_rate}; give one of {known} frames a second.", field="frame_rate")
    check_drawing(short_side=short_side, seed=seed)


def check_drawing(*, short_side: int, seed: int) -> None:
    """Raises UserError where nothing can be drawn so."""
    if not 32 <= short_side <= 2160 or short_side % 2:
        raise UserError(f"short_side is {short_side}; give an even number from 32 to 2160.", field="short_side")
    if seed < 0:
        raise UserError(f"seed is {seed}; give 0 or more.", field="seed")


def _is_complete(root: pathlib.Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds the whole set already; refuses a folder that holds something else."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise UserError(f"{root} is a file; give a folder.")
    path = root / _SETTINGS_FILE
    if not path.exists():
        if any(child.name != _SETTINGS_FILE + _PARTIAL for child in root.iterdir()):
            raise UserError(f"{root} holds files but no {_SETTINGS_FILE}; give a new or empty folder.")
        return False
    try:
        found = json.loads(path.read_text())
        version = found["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged; remove the folder or give another one.") from error
    if version != _VERSION:
        raise UserError(f"{root} was drawn by another version of this program; remove it or give another folder.")
    found.setdefault("untrimmed", False)  # sets of before do not say so
    differing = [
        f"{name} ({found.get(name)} there, {value} asked for)"
        for name, value in settings.items()
        if found.get(name) != value
    ]
    if differing:
        raise UserError(
            f"{root} holds a synthetic set with other settings: {', '.join(differing)}; "
            "give another folder or the same settings."
        )
    csv_files = settings["pro"] or settings["untrimmed"]
    lists = [(f"{split}.csv" if csv_files else f"{split}_list_videos.txt") for split in _splits(settings)]
    return all((root / name).exists() for name in [*lists, _LABELS_FILE])


def _splits(settings: dict[str, Any]) -> tuple[str, ...]:
    return SPLITS if settings["test"] else SPLITS[:2]


def _plan(settings: dict[str, Any]) -> Sequence[PlannedClip | PlannedVideo]:
    """Draws all that is to be written."""
    if not settings["untrimmed"]:
        return plan_clips(settings)
    people = _SUBJECTS[settings["subjects"]]
    return [video for split in _splits(settings) for video in plan_videos(settings, split, people[split])]


def plan_clips(settings: dict[str, Any]) -> list[PlannedClip]:
    """Draws the subject and the micro-actions of each clip, in the order of the lists."""
    clips: list[PlannedClip] = []
    for split_id, split in enumerate(_splits(settings)):
        people = _SUBJECTS[settings["subjects"]][split]
        if settings["pro"]:
            clips += _plan_pro(settings, split, people)
            continue
        rng = np.random.default_rng([settings["seed"], 3, split_id])
        counts = [max(1, round(settings["size"] * count[split_id])) for count in MA52_COUNTS]
        classes = rng.permutation(np.repeat(np.arange(len(MA52_NAMES)), counts))
        subjects = rng.choice(people, len(classes))
        clips += [
            PlannedClip(split, i, (int(c),), int(s)) for i, (c, s) in enumerate(zip(classes, subjects, strict=True))
        ]
    return clips


def _plan_pro(settings: dict[str, Any], split: str, people: range) -> list[PlannedClip]:
    split_id = SPLITS.index(split)
    rng = np.random.default_rng([settings["seed"], 5, split_id])
    clips: list[PlannedClip] = []
    for i in range(max(1, round(settings["size"] * sum(count[split_id] for count in MA52_COUNTS)))):
        emotion, subject = int(rng.integers(len(pro_lib.EMOTIONS))), int(rng.choice(people))
        acts, expression = pro_lib.draw_acts(rng, emotion), pro_lib.draw_expression(rng, emotion)
        clips.append(PlannedClip(split, i, acts, subject, emotion, expression))
    return clips


def render_clip(clip: PlannedClip, settings: dict[str, Any]) -> UInt8[np.ndarray, "t h w 3"]:
    """Draws one clip; it depends on the seed and the clip alone."""
    from tfds_ma52.synthetic import render  # OpenCV only where it is needed

    rng = np.random.default_rng([settings["seed"], 1, clip.subject])
    body, looks = skeleton.draw_body(rng), render.draw_looks(rng, clip.acts[0])
    rng = np.random.default_rng([settings["seed"], 2, SPLITS.index(clip.split), clip.number])
    scene, variation = render.draw_scene(rng), motions.draw_variation(rng)
    if clip.expression is None:
        points = skeleton.pose_trajectory(clip.acts[0], body, variation)
    else:
        variation = dataclasses.replace(variation, frames=int(rng.integers(60, 91)))
        points = skeleton.pose_acts(_draw_acts(clip, variation, rng), body, variation)
        looks = dataclasses.replace(looks, expression=_draw_face(clip.expression, rng))
    step = FPS // settings["frame_rate"]
    points = {name: point[::step] for name, point in points.items()}
    return render.render_frames(points, body, looks, scene, frame_size(settings["short_side"]), rng)


def _draw_acts(clip: PlannedClip, variation: motions.Variation, rng: np.random.Generator) -> list[skeleton.Act]:
    """Draws the time and the variation of each of a clip's micro-actions."""
    acts: list[skeleton.Act] = []
    for class_id, (first, length) in zip(
        clip.acts, pro_lib.windows(rng, variation.frames, len(clip.acts)).tolist(), strict=True
    ):
        own = dataclasses.replace(motions.draw_variation(rng), frames=length, side=variation.side)
        acts.append(skeleton.Act(class_id, first, own))
    return acts


def _draw_face(expression: int, rng: np.random.Generator) -> face.Expression:
    return face.between(pro_lib.EXPRESSIONS[pro_lib.EMOTIONS[expression]], rng.uniform(0.8, 1.0))


def frame_size(short_side: int) -> tuple[int, int]:
    """(height, width) of the frames in pixels: portrait, as 1296 x 1080 in MA-52."""
    return 2 * round(0.6 * short_side), short_side


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process writes into a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write_all(
    clips: Sequence[PlannedClip | PlannedVideo], root: pathlib.Path, settings: dict[str, Any], processes: int
) -> None:
    write_atomically(root / _SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
    for split in _splits(settings):
        (root / split).mkdir(exist_ok=True)
    missing = [clip for clip in clips if not (root / clip.split / clip.name).exists()]
    write_clips(missing, root, settings, processes)
    if settings["untrimmed"]:
        _write_annotations(root, [clip for clip in clips if isinstance(clip, PlannedVideo)], settings["frame_rate"])
    else:
        write_lists = _write_pro_lists if settings["pro"] else _write_lists
        write_lists(root, [clip for clip in clips if isinstance(clip, PlannedClip)])


def write_clips(
    clips: Sequence[PlannedClip | PlannedVideo], root: pathlib.Path, settings: dict[str, Any], processes: int
) -> None:
    """Draws, encodes and writes clips, with a progress bar; the files do not depend on `processes`."""
    write = functools.partial(_write_clip, root=root, settings=settings)
    progress = functools.partial(tqdm.tqdm, total=len(clips), desc="synthetic clips", unit="clip", disable=None)
    if processes == 1 or len(clips) < 2:
        for clip in progress(clips):
            write(clip)
        return
    workers = min(processes, len(clips))
    with process_pool(workers) as pool:
        try:
            for _ in progress(pool.map(write, clips, chunksize=max(1, min(8, len(clips) // workers)))):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else it would first write all the other clips
            raise


def _write_clip(clip: PlannedClip | PlannedVideo, root: pathlib.Path, settings: dict[str, Any]) -> None:
    if isinstance(clip, PlannedVideo):
        frames = draw_frames(clip, settings, frame_size(settings["short_side"]))
    else:
        frames = render_clip(clip, settings)
    write_atomically(root / clip.split / clip.name, encode(frames, settings["frame_rate"]))


def encode(frames: Iterable[UInt8[np.ndarray, "h w 3"]], frame_rate: int = FPS) -> bytes:
    """Encodes RGB frames of even size as an H.264 mp4."""
    from tfds_ma52.encoding import encode_h264  # PyAV only where it is needed

    return encode_h264(frames, preset="ultrafast", frame_rate=frame_rate)[0]


def _write_lists(root: pathlib.Path, clips: list[PlannedClip]) -> None:
    for split in SPLITS:
        # The test list's labels are dummies, as in MA-52.
        lines = [f"{c.name} {0 if split == 'test' else c.acts[0]}\r\n" for c in clips if c.split == split]
        if lines:
            write_atomically(root / f"{split}_list_videos.txt", "".join(lines))
    write_atomically(root / _LABELS_FILE, "".join(f"{i}\t{name}\r\n" for i, name in enumerate(MA52_NAMES)))


def _write_pro_lists(root: pathlib.Path, clips: list[PlannedClip]) -> None:
    """Writes the files that `annotations.py` reads, and `faces.csv`: the emotion that each face expresses."""
    for split in dict.fromkeys(clip.split for clip in clips):
        rows = []
        for clip in (clip for clip in clips if clip.split == split):
            acts = ";".join(MA52_NAMES[class_id] for class_id in clip.acts)
            known = (acts, _emotion_name(clip.emotion)) if split != "test" else ("", "")
            rows.append((f"{split}/{clip.name}", *known))
        _write_csv(root / f"{split}.csv", ("video", "labels", "emotion"), rows)
    faces = [(f"{clip.split}/{clip.name}", _emotion_name(clip.expression)) for clip in clips]
    _write_csv(root / "faces.csv", ("video", "expression"), faces)
    _write_labels(root)
    write_atomically(root / "emotion_name.txt", "".join(f"{i}\t{name}\n" for i, name in enumerate(pro_lib.EMOTIONS)))


def _write_annotations(root: pathlib.Path, videos: list[PlannedVideo], frame_rate: int) -> None:
    """Writes the files that `mma52.py` reads."""
    for split in dict.fromkeys(video.split for video in videos):
        rows = untrimmed_lib.rows([video for video in videos if video.split == split], frame_rate)
        _write_csv(root / f"{split}.csv", untrimmed_lib.HEADER, rows)
    _write_labels(root)


def _write_labels(root: pathlib.Path) -> None:
    """Writes the names and groups of the classes that can happen at once."""
    groups = [pro_lib.LABELS.group_names[group] for group in pro_lib.LABELS.groups]
    labels = zip(pro_lib.LABELS.names, groups, strict=True)
    write_atomically(root / _LABELS_FILE, "".join(f"{i}\t{name}\t{group}\n" for i, (name, group) in enumerate(labels)))


def _emotion_name(emotion: int | None) -> str:
    return "" if emotion is None else pro_lib.EMOTIONS[emotion]


def _write_csv(path: pathlib.Path, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_atomically(path, text.getvalue())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
