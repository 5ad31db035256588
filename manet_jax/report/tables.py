"""The tables of a report: metrics with their intervals, predictions of all clips."""

import csv
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from manet_jax import evaluate
from manet_jax.evaluate import Evaluation
from manet_jax.report.results import task_results


def metrics_table(evaluation: Evaluation, intervals: dict[str, tuple[float, float]]) -> str:
    """The metrics in percent with their intervals, as HTML; thresholds as they are.

    Beside those of an ensemble stand those of its members.
    """
    rows = []
    for name in evaluate.table_rows(evaluation.metrics):
        low, high = (evaluate.format_metric(name, {name: bound}) for bound in intervals[name])
        interval = "fixed" if name == "threshold" else f"{low} – {high}"  # noqa: RUF001
        values = [evaluate.format_metric(name, each.metrics) for each in (evaluation, *evaluation.members)]
        rows.append((name.replace("_", " "), values[0], interval, *values[1:]))
    head = ("metric", "%", "95 % interval", *(f"{each.workdir}, %" for each in evaluation.members))
    return html_table(head, rows)


def html_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as HTML."""
    cells = ["".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)]
    cells += ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"


def predictions_csv(evaluation: Evaluation) -> str:
    """A row for each clip: true classes, predicted ones, all probabilities; several classes with `;` between."""
    columns: dict[str, Sequence[Any]] = {"video_id": evaluation.video_ids}
    for result in task_results(evaluation, unknown=True):
        names = result.labels.names
        for title, hot in ((result.task.name, result.target), (f"predicted_{result.task.name}", result.predicted)):
            columns[title] = [";".join(names[i] for i in np.flatnonzero(row)) for row in hot]
        for name, column in zip(names, result.probabilities.T, strict=True):
            columns[f"p({name})"] = [f"{probability:.6g}" for probability in column]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return text.getvalue()
