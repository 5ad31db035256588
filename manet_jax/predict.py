"""Predicts the micro-actions in videos; of long ones in sliding windows, and as segments with a start and an end.

python -m manet_jax.predict --workdir runs/first clip.mp4 folder 'interviews/*.mp4'
python -m manet_jax.predict --workdir runs/first --json folder > predictions.jsonl
python -m manet_jax.predict --workdir runs/first --html pages folder
python -m manet_jax.predict --workdir runs/first --elan --webvtt interview.mp4
python -m manet_jax.predict --workdir runs/first --workdir runs/second --weights 2,1 folder
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tqdm
from jaxtyping import Float

from manet_jax import annotation_files, compilation_cache, inference, memory, video_files
from manet_jax.checkpoint import CHECKPOINTS
from manet_jax.data.views import Views
from manet_jax.detection import detector, features, review
from manet_jax.detection.detector import Detector
from manet_jax.detection.grouping import group
from manet_jax.detection.segments import Segment, shown_segments
from manet_jax.inference import Prediction
from manet_jax.loaded_model import LoadedModel, load_model
from manet_jax.models import OptionError
from manet_jax.report import figures
from manet_jax.report import predictions as predictions_lib
from manet_jax.report.player.index import write_index
from manet_jax.report.player.video_page import VideoPage, write_page
from tfds_ma52 import video
from tfds_ma52.clip_frames import FRAME_RATE
from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError
from tfds_ma52.labels import LabelSet

if TYPE_CHECKING:
    from manet_jax.ensemble import Ensemble


Page = tuple[VideoPage, pathlib.Path]
_INDEX, _REVIEW = "index.html", "review.html"  # list the pages of a folder, and those to review
# Of segments, by the flag that asks for them: the suffixes of files, and what writes each.
FORMATS = {
    "elan": {".eaf": annotation_files.write_eaf},
    "boris": {".boris": annotation_files.write_boris_project, ".csv": annotation_files.write_boris_events},
    "webvtt": {".vtt": annotation_files.write_webvtt},
}


@dataclasses.dataclass(frozen=True)
class Found:
    """What is found along a long video.

    Attributes:
      video: the file.
      duration: of the video in seconds.
      times: of moments, in seconds.
      probabilities: of each class at each moment.
      segments: the most certain first.
      labels: the classes.
      disagreement: see `review.Scored`.
    """

    video: pathlib.Path
    duration: float
    times: Float[np.ndarray, " t"]
    probabilities: Float[np.ndarray, "t n"]
    segments: Sequence[Segment]
    labels: LabelSet
    disagreement: Float[np.ndarray, "t n"] | None

    @property
    def scored(self) -> review.Scored:
        """What a review goes by."""
        return review.Scored(self.times, self.probabilities, self.segments, self.disagreement)

    def page(self, threshold: float) -> VideoPage:
        """What the page of the video shows."""
        # The last moment may lie behind the end, and a mean of probabilities a rounding above 1.
        times, probabilities = np.minimum(self.times, self.duration), np.minimum(self.probabilities, 1)
        rate = video.frame_rate(self.video)
        return VideoPage(
            self.video, self.duration, rate, self.labels, times, probabilities, self.segments, threshold=threshold
        )


def run(arguments: argparse.Namespace) -> int:
    """Predicts and prints; returns the exit status, 1 if a file could not be read.

    Raises:
      UserError: there is no checkpoint, no video, or a number is out of range.
    """
    find = video_files.find_videos if arguments.frame_rate is None else video_files.find_image_folders
    paths = find(arguments.videos)
    compilation_cache.use()
    model, timelines = _load(arguments)
    if not arguments.boxes and any(each.metadata.config.get("data", {}).get("boxes") for each in model.members):
        print("manet_jax: the model was trained on crops to boxes, but there is no --boxes", file=sys.stderr)
    timelines, fitted = arguments.timelines or timelines, _load_detector(model, arguments)
    formats = [name for name in FORMATS if getattr(arguments, name)]
    wanted = [name for name in (*FORMATS, "html", "review") if getattr(arguments, name)]
    if wanted and not any(task.name == "actions" for task in model.tasks):
        raise UserError(f"--{wanted[0]} shows micro-actions, but {arguments.workdir[0]} recognises emotions only")
    if wanted and arguments.frame_rate is not None:
        raise UserError(
            f"--{wanted[0]} is for videos, not for folders of images: leave out --frame_rate, or --{wanted[0]}"
        )
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
        whole_until=0.0 if wanted else inference.LONG,
        show_progress=True,
    )
    failed, unwritable, unchecked = 0, "", []
    pages: list[Page] = []
    reviewed: list[Found] = []
    inputs = {f"{name} {i}": spec for i, each in enumerate(model.members) for name, spec in each.inputs.items()}
    with memory.batch_must_fit("--batch_size", arguments.batch_size, inputs):
        for _, of_video in itertools.groupby(predicted, key=lambda prediction: prediction.video):
            predictions = list(of_video)
            found = _find(model, predictions, fitted, arguments.batch_size)
            segments = shown_segments(found.segments, arguments.threshold) if found else []
            failed += bool(predictions[-1].error)
            if not (predictions[-1].error or predictions[0].announces_length):
                unchecked.append(figures.printable(predictions[0].video))
            text = (
                json.dumps(predictions_lib.describe(predictions, arguments.top, segments)) if arguments.json else None
            )
            tqdm.tqdm.write(text or predictions_lib.format_video(predictions, arguments.top, segments), file=sys.stdout)
            if arguments.html and found:
                pages.append(_write_page(arguments.html, found, pages, threshold=arguments.threshold))
            if arguments.review and found:
                reviewed.append(found)
            if predictions[0].windowed and not predictions[0].error:
                try:
                    written = _write_files(timelines, predictions, found, segments, formats)
                except OSError as error:
                    unwritable = error.strerror or str(error)
                    continue
                tqdm.tqdm.write(f"timeline: {figures.printable(written)}", file=sys.stderr)
    if reviewed:
        exclusive = next(task.exclusive for task in model.tasks if task.name == "actions")
        chosen = review.least_sure([each.scored for each in reviewed], arguments.review, exclusive=exclusive)
        _write_review(arguments.html or timelines, reviewed, chosen, pages, arguments.threshold)
    if pages:
        write_index(pages, arguments.html / _INDEX)
        print(f"pages: {figures.printable(str(arguments.html / _INDEX))}", file=sys.stderr)
    if failed:
        print(f"manet_jax: {failed} of {len(paths)} videos could not be read", file=sys.stderr)
    if unchecked:
        print(f"manet_jax: {video.unchecked(unchecked)}", file=sys.stderr)
    if unwritable:
        message = f"timelines cannot be written to {timelines} ({unwritable}); give another folder with --timelines"
        print(f"manet_jax: {message}", file=sys.stderr)
    return 1 if failed or unwritable else 0


def _write_files(
    folder: pathlib.Path,
    predictions: Sequence[Prediction],
    found: Found | None,
    segments: Sequence[Segment],
    formats: Sequence[str],
) -> str:
    """Writes the timeline of a video, and its segments in some of `FORMATS`; returns the files' names."""
    writers = {suffix: write for name in formats for suffix, write in FORMATS[name].items()}
    path = predictions_lib.timeline_path(folder, predictions[0].video, tuple(writers))
    folder.mkdir(parents=True, exist_ok=True)
    if found is not None:
        for suffix, write in writers.items():
            write(path.with_suffix(suffix), found.video, found.duration, segments, found.labels)
    predictions_lib.write_timeline(predictions, path, tuple(writers) if found is not None else ())
    *first, last = (".png", *writers)
    return f"{path}{''.join(f', {suffix}' for suffix in first)} and {last}"


def _write_page(
    folder: pathlib.Path, found: Found, others: Sequence[Page], *, prefix: str = "", threshold: float
) -> Page:
    """Writes the page of a video, named otherwise than those of the others; returns what it shows, and its path.

    With a prefix a file of ELAN is to stand beside it: one that is there, and perhaps corrected, is to stay.
    """
    stem, taken = f"{prefix}{found.video.stem}", {path.name for _, path in others} | {_INDEX, _REVIEW}
    paths = (folder / (f"{stem}.html" if i == 1 else f"{stem}_{i}.html") for i in itertools.count(1))
    path = next(p for p in paths if p.name not in taken and not (prefix and p.with_suffix(".eaf").exists()))
    data = found.page(threshold)
    write_page(data, path, index=_REVIEW if prefix else _INDEX)
    return data, path


def _write_review(
    folder: pathlib.Path,
    videos: Sequence[Found],
    chosen: Sequence[Sequence[Segment]],
    others: Sequence[Page],
    threshold: float,
) -> None:
    """Writes pages and an overview of the chosen segments of each video, and files of ELAN.

    These hold the others of at least the threshold too: who learns from a file takes what it lacks for absent.
    """
    pages: list[Page] = []
    for found, segments in zip(videos, chosen, strict=True):
        if segments:
            only = dataclasses.replace(found, segments=segments)
            pages.append(_write_page(folder, only, [*others, *pages], prefix="review_", threshold=0.0))
            path, shown = pages[-1][1].with_suffix(".eaf"), shown_segments(found.segments, threshold)
            together = {*segments, *shown}
            try:
                annotation_files.write_eaf(
                    path, found.video, found.duration, together, found.labels, to_review=segments
                )
            except OSError as error:
                raise UserError(f"{path} cannot be written ({error.strerror}); give another folder") from error
    write_index(pages, folder / _REVIEW)
    print(f"to review: {figures.printable(str(folder / _REVIEW))}, and files of ELAN beside it", file=sys.stderr)


def _load(arguments: argparse.Namespace) -> "tuple[LoadedModel | Ensemble, pathlib.Path]":
    """The model of the workdir, or the ensemble of those of several, and the default folder of its timelines."""
    first = pathlib.Path(arguments.workdir[0]).expanduser()
    if len(arguments.workdir) == 1 and arguments.weights is None:
        return load_model(first, arguments.checkpoint), first / "timelines"
    from manet_jax import ensemble  # late, as it imports all of evaluation, which a single model does not need

    weights = None if arguments.weights is None else ensemble.parse_weights(arguments.weights)
    model = ensemble.load_ensemble(arguments.workdir, arguments.checkpoint, weights=weights)
    return model, first / f"timelines{ensemble.suffix(arguments.workdir)}"


def _load_detector(model: "LoadedModel | Ensemble", arguments: argparse.Namespace) -> Detector | None:
    """The detector of a run; None where there is none for what is asked for, so that the rule finds segments."""
    path = pathlib.Path(arguments.workdir[0]).expanduser() / detector.FOLDER / detector.FILE
    if not isinstance(model, LoadedModel) or not path.exists():
        return None
    if arguments.boxes or arguments.frame_rate is not None:
        print("manet_jax: the run's detector is for whole videos: grouping finds segments instead", file=sys.stderr)
        return None
    try:
        fitted = detector.load(path)
    except UserError as error:
        print(f"manet_jax: {error}; grouping finds segments instead", file=sys.stderr)
        return None
    if fitted.network != features.network_digest(model):
        print(
            f"manet_jax: {path} was fitted to another checkpoint: grouping finds segments instead; "
            f"python -m manet_jax.detect --workdir {arguments.workdir[0]} fits it again",
            file=sys.stderr,
        )
        return None
    return fitted


def _find(
    model: "LoadedModel | Ensemble", predictions: Sequence[Prediction], fitted: Detector | None, batch_size: int
) -> Found | None:
    """What is found along a long video: by the run's detector, or by grouping its windows. None for a short one."""
    windows = [each for each in predictions if not each.error]
    probabilities = [each.probabilities for each in windows if each.probabilities is not None]
    if not probabilities or not windows[0].windowed:
        return None
    path = pathlib.Path(windows[0].video)
    if fitted is not None and isinstance(model, LoadedModel) and len(windows) == len(predictions):
        made = features.compute_features(model, path, fitted.windows, batch_size, progress="segments")
        times, duration, scores = fitted.windows.times(made.duration), made.duration, made.scores
        segments = fitted(made)
    else:
        times, duration, scores = _middles(windows), windows[-1].end, np.stack(probabilities)
        segments = group(scores, times, duration)
    return Found(path, duration, times, scores, segments, model.labels, _disagreement(windows, times))


def _middles(windows: Sequence[Prediction]) -> Float[np.ndarray, " w"]:
    return np.array([(each.start + each.end) / 2 for each in windows])


def _disagreement(windows: Sequence[Prediction], times: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t n"] | None:
    """See `review.Scored`, at some times, from the windows beside them; None where there is none."""
    known = [each.disagreement for each in windows if each.disagreement is not None]
    if len(known) < len(windows):
        return None
    return np.stack([np.interp(times, _middles(windows), of_class) for of_class in np.transpose(known)], axis=1)


def _views(views: Views, arguments: argparse.Namespace) -> Views:
    """The views that the flags ask for, from those of the model."""
    given = {name: getattr(arguments, name) for name in ("num_clips", "num_crops", "flip")}
    try:
        return dataclasses.replace(views, **{name: value for name, value in given.items() if value is not None})
    except OptionError as error:
        raise UserError(f"--{error}") from error


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
        "--html",
        type=pathlib.Path,
        metavar="FOLDER",
        help="write a page for each video that plays it beside what is found",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.25,
        metavar="SCORE",
        help="list and write the segments of at least this score, 0 to 1; pages start with it (0.25)",
    )
    parser.add_argument(
        "--review",
        type=int,
        default=0,
        metavar="N",
        help="write pages of the N segments of which the model is least sure, of all videos; files of ELAN mark them",
    )
    for name, program in (("elan", "ELAN"), ("boris", "BORIS"), ("webvtt", "players, as WebVTT subtitles")):
        parser.add_argument(
            f"--{name}",
            action="store_true",
            help=f"write the segments for {program}, beside the timelines; short videos get windows and segments too",
        )
    parser.add_argument(
        "--timelines", type=pathlib.Path, help="where timelines of long videos are written (WORKDIR/timelines)"
    )
    arguments = parser.parse_args(argv)
    if arguments.review < 0:
        parser.error(f"--review is {arguments.review}; it must be at least 1")
    if not 0 <= arguments.threshold <= 1:
        parser.error(f"--threshold is {arguments.threshold:g}; give 0 to 1")
    for name in ("top", "batch_size"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}; it must be at least 1")
    return run_command("manet_jax", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
