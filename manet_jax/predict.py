"""Predicts the micro-actions in videos; long videos in sliding windows.

python -m manet_jax.predict --workdir runs/first clip.mp4 folder 'interviews/*.mp4'
python -m manet_jax.predict --workdir runs/first --json folder > predictions.jsonl
python -m manet_jax.predict --workdir runs/first --workdir runs/second --weights 2,1 folder
"""

import argparse
import collections
import dataclasses
import glob
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm

from manet_jax import compilation_cache, inference, memory
from manet_jax.checkpoint import CHECKPOINTS
from manet_jax.data.views import Views
from manet_jax.inference import Prediction
from manet_jax.loaded_model import LoadedModel, load_model
from manet_jax.models import OptionError
from manet_jax.report import figures
from tfds_ma52 import image_folder, video
from tfds_ma52.clip_frames import FRAME_RATE
from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically

if TYPE_CHECKING:
    from manet_jax.ensemble import Ensemble

SUFFIXES = (  # looked for in folders
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".asf", ".flv", ".ogv", ".mxf", ".gif"),
)
_KINDS = 8  # of files that were passed over, listed one by one


def find_videos(patterns: Iterable[str]) -> list[pathlib.Path]:
    """The video files that files, folders (searched in depth) and globs stand for, each once.

    A file is taken whatever its suffix, even if it is missing: `inference.predict` reports that. The files of a folder
    that are no videos by their names are counted on stderr.

    Raises:
      UserError: a folder or a glob has no videos, or a folder cannot be read.
    """
    found: dict[str, pathlib.Path] = {}  # by the path without links
    for pattern in patterns:
        path = pathlib.Path(pattern).expanduser()
        if path.is_dir():
            paths, passed_over = _search(path)
            if passed_over:
                print(f"manet_jax: {pattern}: {_format_passed_over(passed_over)}", file=sys.stderr)
            if not paths:
                images = any(suffix in image_folder.SUFFIXES for suffix in passed_over)
                hint = "; to read folders of images, give --frame_rate" if images else ""
                raise UserError(f"{pattern} has no videos: there is no file ending in {', '.join(SUFFIXES)}{hint}")
        elif not path.exists() and glob.has_magic(pattern):
            anchor = pathlib.Path(path.anchor)
            paths = sorted(p for p in anchor.glob(str(path.relative_to(anchor))) if p.is_file())
            if not paths:
                raise UserError(f"no file matches {pattern}")
        else:
            paths = [path]
        for each in paths:
            found.setdefault(os.path.realpath(each), each)
    return list(found.values())


def find_image_folders(patterns: Iterable[str]) -> list[pathlib.Path]:
    """The folders of images that folders, searched in depth, stand for.

    Raises:
      UserError: a path is no folder, or has no images.
    """
    found: dict[pathlib.Path, None] = {}
    for pattern in patterns:
        path = pathlib.Path(pattern).expanduser()
        if not path.is_dir():
            raise UserError(f"{pattern} is no folder of images: give videos without {{flag}}", field="frame_rate")
        images = (each for each in _walk(path) if each.suffix.lower() in image_folder.SUFFIXES)
        folders = sorted({image.parent for image in images if not image.name.startswith(".")})
        if not folders:
            raise UserError(f"{pattern} has no images: no file ends in {', '.join(image_folder.SUFFIXES)}")
        found |= dict.fromkeys(folders)
    return list(found)


def _search(folder: pathlib.Path) -> tuple[list[pathlib.Path], collections.Counter[str]]:
    """The videos in a folder by their names, sorted, and how many files of each other kind there are."""
    paths, passed_over = [], collections.Counter()
    for path in _walk(folder):
        suffix = path.suffix.lower()
        if path.name.startswith("._"):  # what macOS writes beside a file, with the same suffix
            passed_over["companions of macOS"] += 1
        elif any(part.startswith(".") for part in path.relative_to(folder).parts):
            passed_over["hidden"] += 1
        elif suffix in SUFFIXES:
            paths.append(path)
        else:
            passed_over[figures.printable(suffix) or "without suffix"] += 1
    return sorted(paths), passed_over


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The files in a folder, in depth; linked folders are followed, each folder once."""

    def fail(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be read ({error.strerror})") from error

    seen = set()
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # so that the same one of two ways to a folder is taken
        yield from (pathlib.Path(root, name) for name in names)


def _format_passed_over(counts: collections.Counter[str]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{count} {kind}" for kind, count in ordered[:_KINDS]]
    if others := sum(count for _, count in ordered[_KINDS:]):
        listed.append(f"{others} others")
    return f"files passed over, by their names no videos: {', '.join(listed)}; give a file itself to have it read"


def describe(predictions: Sequence[Prediction], count: int) -> dict[str, Any]:
    """The prediction for one video as JSON: `top` actions and `emotion`, or `windows` with those, or an `error`."""
    first = predictions[0]
    name = figures.printable(first.video)
    if first.error:
        return {"video": name, "error": first.error}
    if not first.windowed:
        return {"video": name, "end": round(first.end, 3), **_describe_one(first, count)}
    readable = [each for each in predictions if not each.error]
    windows = [{"start": round(p.start, 3), "end": round(p.end, 3), **_describe_one(p, count)} for p in readable]
    broken = {"error": predictions[-1].error} if predictions[-1].error else {}
    return {"video": name, "windows": windows, **broken}


def _describe_one(prediction: Prediction, count: int) -> dict[str, Any]:
    found = {"top": prediction.top(count), "emotion": prediction.emotion()}
    return {name: value for name, value in found.items() if value}


def format_video(predictions: Sequence[Prediction], count: int) -> str:
    """The prediction for one video as text: its most probable actions, or a long one's line by line in time."""
    first = predictions[0]
    if first.windowed:
        lines = [f"{figures.printable(first.video)}: {len(predictions)} windows"]
        lines += [f"  {text}" for text in _format_stretches([p for p in predictions if not p.error])]
    else:
        lines = [figures.printable(first.video)]
        lines += [
            f"  {100 * each['probability']:5.1f} %  {each['action']} ({each['group']})" for each in first.top(count)
        ]
        if emotion := first.emotion():
            lines.append(f"  {100 * emotion['probability']:5.1f} %  emotion: {emotion['emotion']}")
    if error := predictions[-1].error:
        lines.append(f"  cannot be read: {error}")
    return "\n".join(lines)


def _format_stretches(windows: Sequence[Prediction]) -> Iterator[str]:
    """A line for each stretch of windows with the same best action and emotion, with their mean probability."""

    def best(window: Prediction) -> tuple[str, str]:
        action, emotion = window.top(1), window.emotion()
        title = f"{action[0]['action']} ({action[0]['group']})" if action else ""
        return title, emotion["emotion"] if emotion else ""

    for (action, emotion), stretch in itertools.groupby(windows, best):
        stretch = list(stretch)
        parts = []
        if action:
            parts.append(f"{_percent(p.probabilities for p in stretch)} %  {action}")
        if emotion:
            parts.append(f"{_percent(p.emotion_probabilities for p in stretch)} %  emotion: {emotion}")
        yield f"{figures.clock(stretch[0].start)} - {figures.clock(stretch[-1].end)}  {'  '.join(parts)}"


def _percent(probabilities: Iterable[np.ndarray | None]) -> str:
    """The mean of the highest probabilities."""
    return f"{100 * np.mean([each.max() for each in probabilities if each is not None]):5.1f}"


def write_timeline(predictions: Sequence[Prediction], path: pathlib.Path) -> None:
    """Writes the probabilities of a long video's windows as JSON, and beside it a picture."""
    windows = [p for p in predictions if not p.error]
    first = windows[0]
    timeline: dict[str, Any] = {
        "video": figures.printable(os.path.realpath(first.video)),
        "start": [round(p.start, 3) for p in windows],
        "end": [round(p.end, 3) for p in windows],
    }
    if first.probabilities is not None:
        timeline["actions"] = list(first.labels.names)
        timeline["probabilities"] = [_rounded(p.probabilities) for p in windows]
    if first.emotion_probabilities is not None:
        timeline["emotions"] = list(first.emotions)
        timeline["emotion_probabilities"] = [_rounded(p.emotion_probabilities) for p in windows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.with_suffix(".json"), json.dumps(timeline) + "\n")
    figures.plot_timeline(windows).savefig(path.with_suffix(".png"), dpi=110)


def _rounded(probabilities: np.ndarray | None) -> list[float]:
    return [] if probabilities is None else [round(float(x), 5) for x in probabilities]


def run(arguments: argparse.Namespace) -> int:
    """Predicts and prints; returns the exit status, 1 if a file could not be read.

    Raises:
      UserError: there is no checkpoint, no video, or a number is out of range.
    """
    find = find_videos if arguments.frame_rate is None else find_image_folders
    paths = find(arguments.videos)
    compilation_cache.use()
    model, timelines = _load(arguments)
    if not arguments.boxes and any(each.metadata.config.get("data", {}).get("boxes") for each in model.members):
        print("manet_jax: the model was trained on crops to boxes, but there is no --boxes", file=sys.stderr)
    timelines = arguments.timelines or timelines
    predicted = inference.predict(
        model,
        paths,
        window=arguments.window,
        stride=arguments.stride,
        batch_size=arguments.batch_size,
        boxes=arguments.boxes,
        frame_rate=FRAME_RATE if arguments.frame_rate is None else arguments.frame_rate,
        frame_pattern=arguments.frame_pattern,
        views=[_views(each.views, arguments) for each in model.members],
        show_progress=True,
    )
    failed, unwritable, unchecked = 0, "", []
    inputs = {f"{name} {i}": spec for i, each in enumerate(model.members) for name, spec in each.inputs.items()}
    with memory.batch_must_fit("--batch_size", arguments.batch_size, inputs):
        for _, group in itertools.groupby(predicted, key=lambda prediction: prediction.video):
            predictions = list(group)
            failed += bool(predictions[-1].error)
            if not (predictions[-1].error or predictions[0].announces_length):
                unchecked.append(figures.printable(predictions[0].video))
            text = json.dumps(describe(predictions, arguments.top)) if arguments.json else None
            tqdm.tqdm.write(text or format_video(predictions, arguments.top), file=sys.stdout)
            if predictions[0].windowed and not predictions[0].error:
                try:
                    path = _timeline_path(timelines, predictions[0].video)
                    write_timeline(predictions, path)
                except OSError as error:
                    unwritable = error.strerror or str(error)
                    continue
                tqdm.tqdm.write(f"timeline: {figures.printable(str(path))} and .png", file=sys.stderr)
    if failed:
        print(f"manet_jax: {failed} of {len(paths)} videos could not be read", file=sys.stderr)
    if unchecked:
        print(f"manet_jax: {video.unchecked(unchecked)}", file=sys.stderr)
    if unwritable:
        message = f"timelines cannot be written to {timelines} ({unwritable}); give another folder with --timelines"
        print(f"manet_jax: {message}", file=sys.stderr)
    return 1 if failed or unwritable else 0


def _load(arguments: argparse.Namespace) -> "tuple[LoadedModel | Ensemble, pathlib.Path]":
    """The model of the workdir, or the ensemble of those of several, and the default folder of its timelines."""
    first = pathlib.Path(arguments.workdir[0]).expanduser()
    if len(arguments.workdir) == 1 and arguments.weights is None:
        return load_model(first, arguments.checkpoint), first / "timelines"
    from manet_jax import ensemble  # late, as it imports all of evaluation, which a single model does not need

    weights = None if arguments.weights is None else ensemble.parse_weights(arguments.weights)
    model = ensemble.load_ensemble(arguments.workdir, arguments.checkpoint, weights=weights)
    return model, first / f"timelines{ensemble.suffix(arguments.workdir)}"


def _views(views: Views, arguments: argparse.Namespace) -> Views:
    """The views that the flags ask for, from those of the model."""
    given = {name: getattr(arguments, name) for name in ("num_clips", "num_crops", "flip")}
    try:
        return dataclasses.replace(views, **{name: value for name, value in given.items() if value is not None})
    except OptionError as error:
        raise UserError(f"--{error}") from error


def _timeline_path(folder: pathlib.Path, video: str) -> pathlib.Path:
    """The file of a video's timeline: a new one, or the one of an earlier run; other files of its name stay."""
    stem, own = pathlib.Path(video).stem, figures.printable(os.path.realpath(video))
    names = (stem if i == 1 else f"{stem}_{i}" for i in itertools.count(1))
    return next(path for name in names if _recorded_video(path := folder / f"{name}.json") in (None, own))


def _recorded_video(path: pathlib.Path) -> str | None:
    """The video that a timeline was made of; None where there is no file, "" where it is no timeline."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return ""
    return content.get("video", "") if isinstance(content, dict) else ""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="a file, a folder or a glob such as 'clips/*.mp4'")
    parser.add_argument(
        "--workdir",
        required=True,
        action="append",
        help="of a training run, or of converted weights; given several times, of each model of an ensemble",
    )
    parser.add_argument("--checkpoint", default="best", choices=CHECKPOINTS, help="which one (best)")
    parser.add_argument("--weights", help="of an ensemble's models, such as 2,1 (all alike)")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line for each video")
    parser.add_argument("--top", type=int, default=5, help="how many actions to print (5)")
    parser.add_argument("--batch_size", type=int, default=8, help="clips in a batch (8)")
    parser.add_argument(
        "--window",
        type=float,
        default=inference.WINDOW,
        help=f"seconds of a window of a video of more than {inference.LONG:g} seconds ({inference.WINDOW:g})",
    )
    parser.add_argument(
        "--stride", type=float, default=inference.STRIDE, help=f"seconds between windows ({inference.STRIDE:g})"
    )
    parser.add_argument(
        "--boxes", default="", help="crop each video: a csv file with the columns video,x0,y0,x1,y1[,frame]"
    )
    parser.add_argument(
        "--frame_rate", type=float, help="read folders of images, a frame each, at so many frames a second, not videos"
    )
    parser.add_argument(
        "--frame_pattern", default="", help="of the images' names, e.g. 'img_{:05d}.jpg' (empty: all images)"
    )
    parser.add_argument("--num_clips", type=int, help="average over so many clips of each video (as the run evaluates)")
    parser.add_argument("--num_crops", type=int, help="and over so many crops, 1, 3 or 10 (as the run evaluates)")
    parser.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="and over their mirror images (as the run evaluates)"
    )
    parser.add_argument(
        "--timelines", type=pathlib.Path, help="where timelines of long videos are written (WORKDIR/timelines)"
    )
    arguments = parser.parse_args(argv)
    for name in ("top", "batch_size"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}; it must be at least 1")
    return run_command("manet_jax", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
