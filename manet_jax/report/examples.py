"""Example clips of an evaluation, with class activation maps: rows for `figures.plot_frames`."""

import numpy as np
from jaxtyping import Float, UInt8

from manet_jax.data import clips, sampling
from manet_jax.evaluate import Evaluation
from manet_jax.loaded_model import LoadedModel
from manet_jax.report import fonts
from manet_jax.report.results import TaskResult

# A title, a clip's frames, and the activation map over them if there is one.
Row = tuple[str, UInt8[np.ndarray, "_ _ _ 3"], Float[np.ndarray, "_ _ _"] | None]

_MOST_FRAMES = 8  # of a clip in a row without a map


def read_clip(evaluation: Evaluation, model: LoadedModel, row: int) -> clips.Clip:
    """A clip of the evaluation as the model sees it."""
    return clips.eval_clip(evaluation.dataset.source(evaluation.split)[row]["video"], model.inputs)


def activation_rows(evaluation: Evaluation, model: LoadedModel, result: TaskResult, count: int) -> list[Row]:
    """Class activation maps of clips that are predicted correctly, then of wrong ones.

    They are the clips of the highest confidence, each with another class. For a wrong one there is also the map of a
    true class that was missed.
    """
    names, rows = fonts.drawable(result.labels.names), []
    correct = result.best_examples(result.predicted & result.target, count)
    wrong = result.best_examples(result.predicted & ~result.target, count)
    for index, label in [*correct, *wrong]:
        clip = read_clip(evaluation, model, int(result.rows[index]))
        maps = np.asarray(model.class_maps({name: frames[None] for name, frames in clip.items()})[0])
        name, share = evaluation.video_ids[result.rows[index]], result.probabilities[index]
        title = f"{'correct' if result.target[index, label] else 'wrong'}: {names[label]} ({100 * share[label]:.0f} %)"
        frames = frames_at(clip, len(maps))
        rows.append((f"{name}, {title}", frames, maps[..., label]))
        missed = np.flatnonzero(result.target[index] & ~result.predicted[index])
        if not result.target[index, label] and len(missed):
            true = int(missed[0])
            title = f"{name}, true: {names[true]} ({100 * share[true]:.0f} %)"
            rows.append((title, frames, maps[..., true]))
    return rows


def pair_rows(evaluation: Evaluation, model: LoadedModel, result: TaskResult, true: int, predicted: int) -> list[Row]:
    """A clip of one class that was predicted as another, and one of that other."""
    names, rows = fonts.drawable(result.labels.names), []
    missed, wrong = result.target & ~result.predicted, result.predicted & ~result.target
    for title, wanted in (
        (f"{names[true]}, predicted as {names[predicted]}", missed[:, true] & wrong[:, predicted]),
        (f"{names[predicted]}, correct", (result.target & result.predicted)[:, predicted]),
    ):
        if wanted.any():
            row = int(result.rows[np.where(wanted, result.probabilities[:, predicted], -1).argmax()])
            clip = read_clip(evaluation, model, row)
            rows.append((f"{title}: {evaluation.video_ids[row]}", frames_at(clip, _MOST_FRAMES), None))
    return rows


def frames_at(clip: clips.Clip, count: int) -> UInt8[np.ndarray, "_ _ _ 3"]:
    """Frames of a clip's first input, which class maps belong to: those in the middle of `count` equal parts, or all.

    A network over clips may keep fewer moments than the clip has frames.
    """
    frames = next(iter(clip.values()))
    return frames[sampling.center_segments(len(frames), min(count, len(frames)))]
