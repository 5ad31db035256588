"""The report of an evaluation: one HTML file that needs nothing else, its figures as PNG, its predictions as CSV."""

import base64
import html
import io
import json
import pathlib
import shlex
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from manet_jax import evaluate, metrics
from manet_jax.evaluate import Evaluation
from manet_jax.label_vectors import digest, load_label_vectors
from manet_jax.loaded_model import LoadedModel, load_model
from manet_jax.report import examples, figures, fonts, tables
from manet_jax.report.results import TaskResult, task_results
from manet_jax.run_metadata import versions
from tfds_ma52.errors import UserError
from tfds_ma52.files import write_atomically
from tfds_ma52.labels import LabelSet

_PAIRS, _EXAMPLES = 6, 3  # most confused pairs; correct and wrong clips with activation maps
_DPI = 100
_OF_EACH = "each model of the ensemble has its own, which the report of that model alone shows."
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1250px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.6em } h2 { margin-top: 2em; border-bottom: 1px solid #ccc } img { max-width: 100%; display: block }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .15em .8em; text-align: left }
td + td, th + th { text-align: right }
tr:nth-child(even) td { background: #f4f4f4 } th { border-bottom: 1px solid #999 }
pre { background: #f4f4f4; padding: 1em; overflow-x: auto; font-size: 12px }
p { max-width: 50em } summary { cursor: pointer; font-weight: bold; margin: 1em 0 }
"""

Section = tuple[str, str, dict[str, Figure]]  # title, text, figures by the names of their files


def write(evaluation: Evaluation) -> pathlib.Path:
    """Writes `report_<split>_<checkpoint>/` in the workdir: `report.html`, its figures, and `predictions.csv`.

    That of an ensemble is `report_<split>_<checkpoint>_with_<others>/` in the workdir of its first member.

    Args:
      evaluation: with public labels.

    Returns:
      The path of the HTML file.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = evaluation.workdir / f"report_{evaluation.name}"
    model = load_model(evaluation.workdir, evaluation.checkpoint)
    intervals = evaluate.bootstrap(evaluation.predictions, evaluation.tasks, show_progress=True)
    try:
        folder.mkdir(exist_ok=True)
        write_atomically(folder / "predictions.csv", tables.predictions_csv(evaluation))
        parts = [head(evaluation), _metrics(evaluation, intervals)]
        for result in task_results(evaluation):
            parts.append(list_ids(result.labels))
            for title, text, pictures in _sections(evaluation, model, result):
                parts += [f"<h2>{html.escape(title)}</h2>", f"<p>{html.escape(text)}</p>"]
                parts += [picture(figure, folder / f"{name}.png") for name, figure in pictures.items()]
        if any(task.name == "actions" for task in evaluation.tasks):
            members = evaluation.members or (evaluation,)
            parts.append(in_videos([each.workdir for each in members], evaluation.checkpoint, evaluation.weights))
        parts.append(_foot(evaluation))
        write_atomically(folder / "report.html", document(f"{_name(evaluation)}, {evaluation.split}", parts))
    except OSError as error:
        raise UserError(f"the report cannot be written to {folder} ({error.strerror})") from error
    return folder / "report.html"


def document(title: str, parts: Iterable[str]) -> str:
    """A page of parts that are HTML."""
    start = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
    return "\n".join([f"{start}<style>{_STYLE}</style></head><body>", *parts, "</body></html>\n"])


def in_videos(workdirs: Iterable[pathlib.Path], checkpoint: str, weights: Sequence[float] = ()) -> str:
    """How to see in videos what a model, or an ensemble with weights, finds; as HTML."""
    words = [word for workdir in workdirs for word in ("--workdir", str(workdir))]
    if len(set(weights)) > 1:
        words += ["--weights", ",".join(f"{weight:.6g}" for weight in weights)]
    if checkpoint != "best":
        words += ["--checkpoint", checkpoint]
    command = shlex.join(["python", "-m", "manet_jax.predict", *words, "--html", "pages", "VIDEO"])
    return (
        f"<h2>In videos</h2><p>Pages that play videos beside what the model finds in them (docs/analysts.md): "
        f"<code>{html.escape(command)}</code>. With --elan or --boris it writes files for the programs of annotators, "
        "whose corrections it can learn from (docs/annotation_tools.md).</p>"
    )


def list_ids(labels: LabelSet) -> str:
    """The names that the pictures show as ids, as HTML; "" if there are none."""
    names = dict(zip(fonts.drawable(labels.names), labels.names, strict=True))
    groups = dict(zip(fonts.drawable(labels.group_names, "group"), labels.group_names, strict=True))
    listed = [f"{drawn} is {name}" for drawn, name in (names | groups).items() if drawn != name]
    text = f"No font of this machine has all characters of these names, so the pictures show ids: {', '.join(listed)}."
    return f"<p>{html.escape(text)}</p>" if listed else ""


def _sections(evaluation: Evaluation, model: LoadedModel, result: TaskResult) -> Iterator[Section]:
    if result.task.exclusive:
        yield _confusion(result)
    text = "From the most frequent class of the training clips to the rarest one."
    name = result.task.name
    f1 = figures.plot_class_f1(result.f1(), result.counts, result.labels)
    yield f"F1 of {name} by their number of training clips", text, {f"f1_{name}": f1}
    yield _confused_pairs(evaluation, model, result)
    text = "The share of correct decisions among those of each confidence."
    if not result.task.exclusive:
        text += " A decision is whether a class is present in a clip."
    figure = figures.plot_calibration(*result.confidence(), title=name)
    yield f"Calibration of {name}", text, {f"calibration_{name}": figure}
    outputs = [each.predictions.outputs for each in (evaluation, *evaluation.members)]
    if name == "actions" and any("embedding" in each for each in outputs):
        yield _joint_embedding(evaluation, result)
    if result.task is evaluation.tasks[0]:  # the task of the network's classifier
        yield _class_maps(evaluation, model, result)


def _confusion(result: TaskResult) -> Section:
    labels, name, pictures = result.labels, result.task.name, {}
    if 1 < len(labels.group_names) < len(labels.names):
        grouped = metrics.group_confusion(result.confusion(), np.array(labels.groups))
        pictures["confusion_groups"] = figures.plot_confusion(
            grouped, fonts.drawable(labels.group_names, "group"), range(len(grouped)), "body groups"
        )
    pictures[f"confusion_{name}"] = figures.plot_confusion(result.confusion(), labels.names, labels.groups, name)
    return f"Confusion of {name}", "Rows are true classes, in the order of their groups.", pictures


def _confused_pairs(evaluation: Evaluation, model: LoadedModel, result: TaskResult) -> Section:
    names, pairs = result.labels.names, result.confused_pairs(_PAIRS)
    listed = [f"{names[true]} → {names[predicted]}: {count}" for true, predicted, count in pairs]
    pictures = {
        f"confused_{result.task.name}_{i}": figures.plot_frames(
            examples.pair_rows(evaluation, model, result, true, predicted)
        )
        for i, (true, predicted, _) in enumerate(pairs, 1)
    }
    text = f"True class → the predicted one, with the number of clips: {'; '.join(listed) or 'none'}."
    return f"Most confused {result.task.name}", text, pictures


def _joint_embedding(evaluation: Evaluation, result: TaskResult) -> Section:
    if evaluation.members:
        return "Joint embedding", f"There is none: {_OF_EACH}", {}
    embedding = evaluation.predictions.outputs["embedding"].astype(np.float64)
    vectors, remark = read_label_vectors(evaluation, embedding.shape[1])
    figure = figures.plot_embedding(embedding, result.target, result.labels, vectors)
    text = "Training moves a clip's embedding towards the vector of its label, or the mean of several. Colours are body"
    text += f" groups; clips of several are grey.{remark}"
    return "Joint embedding", text, {"embedding": figure}


def read_label_vectors(evaluation: Evaluation, size: int) -> tuple[np.ndarray | None, str]:
    """The label vectors of a model, of so many dimensions; None, and a remark, where they are missing."""
    try:
        source = evaluation.metadata.config.get("label_vectors", "")
        vectors = load_label_vectors(source, evaluation.metadata.labels.names)
    except UserError as error:
        return None, f" The labels' vectors are missing: {error}"
    recorded = evaluation.metadata.data.get("label vectors")
    if vectors.shape[1] != size or recorded not in (None, digest(vectors)):
        return None, " The labels' vectors are missing: the model was trained with others."
    return vectors, ""


def _class_maps(evaluation: Evaluation, model: LoadedModel, result: TaskResult) -> Section:
    title = "Class activation maps"
    if evaluation.members:
        return title, f"There are none: {_OF_EACH}", {}
    if not model.has_class_maps:
        return title, "There are none: the classifier of this network is not linear on averaged features.", {}
    text = (
        "Where and when the evidence for a class lies (black to yellow, from the least to the most in a row), in the "
        "clips of the highest confidence: correct ones, then wrong ones with the map of the true class."
    )
    rows = examples.activation_rows(evaluation, model, result, _EXAMPLES)
    if not rows:
        return title, text, {}
    sizes = {" x ".join(map(str, maps.shape[1:])) for _, _, maps in rows if maps is not None}
    if len(evaluation.views) > 1:
        text += " They are those of a single view, the centre of each clip; the percentages are of all views."
    text += f" The maps have {', '.join(sizes)} locations a frame, the network's last layer."
    return title, text, {"activation": figures.plot_frames(rows)}


def picture(figure: Figure, path: pathlib.Path) -> str:
    """Saves a figure; returns it as HTML."""
    content = io.BytesIO()
    figure.savefig(content, dpi=_DPI)
    write_atomically(path, content.getvalue())
    encoded = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{encoded}">'


def head(evaluation: Evaluation) -> str:
    """The report's title and what was evaluated, as HTML."""
    if evaluation.members:
        predicted = f"The mean probabilities of {len(evaluation.members)} models"
    else:
        step = evaluation.metrics["step"]
        predicted = f"The {evaluation.checkpoint} checkpoint (step {step}) of {evaluation.workdir}"
    text = (
        f"{predicted}, on the {len(evaluation.video_ids)} clips of split {evaluation.split} of "
        f"{evaluation.dataset.location}."
    )
    if not evaluation.members and len(evaluation.views) > 1:
        text += f" Predictions are means over {len(evaluation.views)} views of each clip ({evaluation.views})."
    warning = "This file shows frames of these clips: pass it on only as you may pass on the clips."
    title = html.escape(f"Evaluation of {_name(evaluation)}")
    return f"<h1>{title}</h1><p>{html.escape(text)} {warning}</p>{_members(evaluation)}"


def _name(evaluation: Evaluation) -> str:
    return " + ".join(each.workdir.name for each in evaluation.members or (evaluation,))


def _members(evaluation: Evaluation) -> str:
    """The table of an ensemble's models, as HTML; "" where there is a single one."""
    if not evaluation.members:
        return ""
    pairs = zip(evaluation.members, evaluation.weights, strict=True)
    rows = [
        (each.workdir, f"{weight:.3g}", each.metadata.model.name, each.checkpoint, each.metrics["step"], each.views)
        for each, weight in pairs
    ]
    return tables.html_table(("workdir", "weight", "network", "checkpoint", "step", "views"), rows)


def _metrics(evaluation: Evaluation, intervals: dict[str, tuple[float, float]]) -> str:
    text = (
        "In percent, with 95 % intervals: from 1,000 samples of the clips, drawn with replacement. They show how much "
        "depends on which clips were taken, not how much on the seed of the training run."
    )
    return f"<h2>Metrics</h2>{tables.metrics_table(evaluation, intervals)}<p>{text}</p>"


def _foot(evaluation: Evaluation) -> str:
    rows, blocks = [], {}
    for each in evaluation.members or (evaluation,):
        known, of = each.metadata, f" of {each.workdir}" if evaluation.members else ""
        facts = {name: getattr(known, name) for name in ("data", "initialized_from", "source") if getattr(known, name)}
        blocks |= {f"Config{of}": known.config, f"Data and origin{of}": facts, f"Model{of}": known.model.to_json()}
        rows += [(f"{name} (training{of})", version) for name, version in known.versions.items()]
    rows += [(f"{name} (this report)", version) for name, version in versions().items()]
    parts = [
        f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(json.dumps(block, indent=1))}</pre>"
        "</details>"
        for title, block in blocks.items()
    ]
    table = tables.html_table(("package", "version"), rows)
    parts.append(f"<details><summary>Versions</summary>{table}</details>")
    return "<h2>Config and versions</h2>" + "".join(parts)
