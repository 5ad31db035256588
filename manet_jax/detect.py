"""Finds micro-actions in untrimmed videos: when each one starts and ends.

python -m manet_jax.detect --workdir runs/untrimmed
python -m manet_jax.detect --workdir runs/mma52 --split test --submission prediction.zip

The network of the workdir sees windows of several lengths around each moment of the videos on which it was trained. Of
what it makes of them, a rule (grouping and soft-NMS) and a learned head find segments; both are fitted to the videos of
one split, and compared on another. Features and the detector are kept in WORKDIR/detection; a stopped run resumes.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from manet_jax import compilation_cache
from manet_jax.checkpoint import CHECKPOINTS
from manet_jax.detection import choice, detector, features, fit, grouping, metric, submission
from manet_jax.detection.choice import ScoredVideo
from manet_jax.detection.detector import Detector
from manet_jax.detection.features import WINDOWS, VideoFeatures
from manet_jax.detection.segments import Segment
from manet_jax.loaded_model import LoadedModel, load_model
from manet_jax.report import detections
from tfds_ma52 import annotated, mma52
from tfds_ma52.command import run_command
from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically
from tfds_ma52.labels import same_classes
from tfds_ma52.untrimmed import Action, Video

SHOWN = (0.2, 0.5, 0.7)  # temporal IoU thresholds of the table
METHODS = ("window rule", "learned head", "perfect classifier, same rule")


@dataclasses.dataclass(frozen=True)
class Split:
    """The videos of a split, and what the network makes of them.

    Attributes:
      videos: by name.
      features: likewise; without those that the network's heads see, which would fill the memory.
    """

    videos: Mapping[str, Video]
    features: Mapping[str, VideoFeatures]

    @property
    def targets(self) -> dict[str, list[Action]]:
        """The annotated actions of each video."""
        return {name: video.actions for name, video in self.videos.items()}

    @property
    def hidden(self) -> bool:
        """Whether its annotations are not public."""
        return not any(self.targets.values())


def run(arguments: argparse.Namespace) -> int:
    """Fits and applies the detector; returns the exit status.

    Raises:
      UserError: the run, its videos or their annotations are missing, or do not fit together.
    """
    compilation_cache.use()
    workdir = pathlib.Path(arguments.workdir).expanduser()
    model = load_model(workdir, arguments.checkpoint)
    splits = _read_splits(model, workdir / detector.FOLDER, arguments)
    fitted = _fit(model, splits[arguments.fit_split], workdir / detector.FOLDER, arguments)
    split = splits[arguments.split]
    found = _find(fitted, split)
    if arguments.submission:
        durations = {name: video.duration for name, video in split.videos.items()}
        segments = {name: _cut(found["learned head"][name], end) for name, end in durations.items()}
        submission.write_submission(arguments.submission, segments, durations, len(model.labels.names))
        print(f"submission: {arguments.submission}", file=sys.stderr)
    if split.hidden:
        print(f"the actions of split {arguments.split} are not public: nothing to compare with", file=sys.stderr)
        return 0
    metrics = {name: metric.detection_metrics(found[name], split.targets, model.labels) for name in METHODS}
    print(format_table(metrics))
    title = f"Detection by {workdir.name}, {arguments.split}"
    if arguments.split == arguments.fit_split:
        title += ", from which it learned"
        print(f"split {arguments.split} is what the detector learned from: it does worse on others", file=sys.stderr)
    compared = {name: found[name] for name in METHODS[:2]}
    path = workdir / detector.FOLDER / f"metrics_{arguments.split}.json"
    report = path.with_name(f"report_{arguments.split}.html")
    try:
        write_atomically(path, json.dumps(metrics, indent=1) + "\n")
        detections.write(report, title, compared, split.targets, model.labels, metrics, workdir, arguments.checkpoint)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror or error}): make room there") from error
    print(f"metrics: {path}\nreport: {report}", file=sys.stderr)
    return 0


def _cut(segments: Sequence[Segment], end: float) -> list[Segment]:
    """Segments up to the end of a video as its annotations have it, which may come a frame before the file's."""
    return [dataclasses.replace(each, end=min(each.end, end)) for each in segments if each.start < end]


def format_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each method: the mAP at some thresholds and its mean over all, of actions and of body groups, in %."""
    names = [f"{level}_map{end}" for level in ("action", "body") for end in (*(f"_{t}" for t in SHOWN), "")]
    heads = [name.replace("_map_", " @").replace("_map", " mean") for name in names]
    width = max(map(len, metrics))
    lines = [f"{'detection mAP, %':{width}}" + "".join(f"{head:>12}" for head in heads)]
    for method, values in metrics.items():
        lines.append(f"{method:{width}}" + "".join(f"{100 * values[name]:12.2f}" for name in names))
    return "\n".join(lines)


def _read_splits(model: LoadedModel, folder: pathlib.Path, arguments: argparse.Namespace) -> dict[str, Split]:
    """The splits that are wanted, with their features."""
    data = model.metadata.config.get("data", {})
    root = pathlib.Path(arguments.manual_dir or data.get("manual_dir", "")).expanduser()
    if "logits" not in model.metadata.model.options.outputs:
        raise UserError(f"the model in {arguments.workdir} recognises no actions: give one that does")
    locations = {"list_file": data.get("list_file", ""), "video_folder": data.get("video_folder", "")}
    if data.get("builder_config", "").startswith("annotated"):
        labels, videos = annotated.read_videos(root, **locations)
    else:
        labels, videos = mma52.read_videos(root, list_file=locations["list_file"])
    if not same_classes(labels, model.labels):
        raise UserError(f"the model in {arguments.workdir} and {root} have other classes: give the model's own videos")
    splits = {}
    for name in dict.fromkeys([arguments.fit_split, arguments.split]):
        of_split = {video.name: video for video in videos if video.split == name}
        if not of_split:
            known = ", ".join(dict.fromkeys(video.split for video in videos))
            raise UserError(f"{root} has no videos of split {name!r}; there are those of {known}")
        paths = {each.name: mma52.find_video(root, each, locations["video_folder"]) for each in of_split.values()}
        kept = folder / "features" / name
        computed = features.cached_features(model, paths, kept, WINDOWS, progress=f"features of {name}")
        splits[name] = Split(of_split, {each: _without_features(made) for each, made in computed})
    return splits


def _without_features(made: VideoFeatures) -> VideoFeatures:
    return dataclasses.replace(made, features=np.zeros((*made.features.shape[:2], 0), np.float32))


def _fit(model: LoadedModel, split: Split, folder: pathlib.Path, arguments: argparse.Namespace) -> Detector:
    """The detector of a run, fitted to a split unless it is there already."""
    if split.hidden:
        raise UserError(f"split {arguments.fit_split!r} has no public actions to learn from: give --fit_split another")
    recipe = fit.Recipe(num_steps=arguments.steps, seed=arguments.seed)
    network = features.network_digest(model)
    videos = [dataclasses.astuple(video) for video in split.videos.values()]
    origin = features.digest(network, videos, dataclasses.astuple(recipe), dataclasses.astuple(WINDOWS))
    path = folder / detector.FILE
    with contextlib.suppress(UserError):  # there is none, or one of another version
        fitted = detector.load(path)
        if fitted.origin == origin:
            return fitted
    scored = [
        ScoredVideo(each.scores, WINDOWS.times(each.duration), each.duration, split.videos[name].actions)
        for name, each in split.features.items()
    ]
    title = f"choosing the rule on {len(scored)} videos of {arguments.fit_split}"
    rule, _ = choice.choose(scored, model.labels, progress=title)
    of_videos = [fit.class_examples(split.features[name], video.actions) for name, video in split.videos.items()]
    head = fit.train_head(list(itertools.chain(*of_videos)), WINDOWS.stride, recipe)
    fitted = Detector(head, WINDOWS, rule, network, origin)
    detector.save(fitted, path)
    return fitted


def _find(fitted: Detector, split: Split) -> dict[str, dict[str, list[Segment]]]:
    """The segments that each method finds in each video."""

    def by_rule(scores: Callable[[str], Float[np.ndarray, "t n"]]) -> dict[str, list[Segment]]:
        return {
            name: grouping.group(scores(name), fitted.windows.times(each.duration), each.duration, fitted.grouping)
            for name, each in split.features.items()
        }

    num_classes = next(iter(split.features.values())).probabilities.shape[-1]
    return {
        "window rule": by_rule(lambda name: split.features[name].scores),
        "learned head": {name: fitted(each) for name, each in split.features.items()},
        "perfect classifier, same rule": by_rule(
            lambda name: features.perfect_scores(
                split.videos[name].actions, split.features[name].duration, fitted.windows, num_classes
            )
        ),
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m manet_jax.detect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="of a run on windows of untrimmed videos")
    parser.add_argument("--checkpoint", default="best", choices=CHECKPOINTS, help="which one (best)")
    parser.add_argument("--manual_dir", default="", help="the folder of videos and annotations (that of the run)")
    parser.add_argument("--fit_split", default="train", help="to learn from (train)")
    parser.add_argument("--split", default="val", help="to find segments in, and to evaluate on (val)")
    parser.add_argument("--submission", type=pathlib.Path, help="write the learned head's segments for the challenge")
    parser.add_argument(
        "--steps", type=int, default=fit.Recipe().num_steps, help=f"of the head's training ({fit.Recipe().num_steps})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the head's training (0)")
    arguments = parser.parse_args(argv)
    if arguments.steps < 1:
        parser.error(f"--steps is {arguments.steps}; it must be at least 1")
    if not 0 <= arguments.seed < 2**63:
        parser.error(f"--seed is {arguments.seed}; it must be from 0 to 2^63 - 1")
    return run_command("manet_jax", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
