import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from manet_jax.metric_writer import MetricWriter


def read(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_metric_writer_writes_the_same_to_both_files(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in (1, 2):
        writer.write(step, {"loss": 0.5 * step, "learning_rate": 0.25})
    writer.close()
    assert read(tmp_path) == [{"step": i, "loss": 0.5 * i, "learning_rate": 0.25} for i in (1, 2)]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 1.0)]


def test_metric_writer_leaves_no_step_twice_when_resumed(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in range(1, 6):
        writer.write(step, {"loss": 1.0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    writer = MetricWriter(tmp_path, 3)
    for step in range(4, 7):
        writer.write(step, {"loss": 2.0})
    writer.close()
    assert [(line["step"], line["loss"]) for line in read(tmp_path)] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
