"""Test-time views: which there are, what the network sees in each, and how predictions are averaged."""

import json

import ml_collections
import numpy as np
import pytest
import scipy.special
from helpers import outcome, shrink, write_clip
from saved_models import LABELS, save

import manet_jax
from configs import ma52
from manet_jax import configuration, evaluate, parallel, predict, tasks
from manet_jax.checkpoint import read_model
from manet_jax.data import clips, decoding, input_pipeline
from manet_jax.data.input_pipeline import Reading
from manet_jax.data.views import SINGLE_VIEW, Views
from manet_jax.models import ClipSpec, OptionError
from manet_jax.report import page
from tfds_ma52.clip_frames import ClipFrames
from tfds_ma52.labels import LabelSet

SIX = Views(num_clips=2, num_crops=3)


def coordinates(num_frames, height, width):
    """Frames whose channels are the frame's number, the row and the column."""
    return np.stack(np.indices((num_frames, height, width)), -1).astype(np.uint8)


def video_of(frames, calls=None):
    """A stored video that holds its frames as they are; `calls` gets the frames that are read."""

    def decode(content, indices):
        if calls is not None:
            calls.append(indices.tolist())
        return frames[indices]

    return decoding.StoredVideo(b"", len(frames), decode)


@pytest.mark.parametrize(
    ("views", "parts"),
    [
        (Views(), [(0, 0, False)]),
        (Views(flip=True), [(0, 0, False), (0, 0, True)]),
        (SIX, [(0, 0, False), (0, 1, False), (0, 2, False), (1, 0, False), (1, 1, False), (1, 2, False)]),
        (Views(num_crops=10), [(0, crop, mirrored) for crop in range(5) for mirrored in (False, True)]),
    ],
)
def test_views_are_clips_by_crops_by_mirror_images(views, parts):
    assert [views.parts(view) for view in range(len(views))] == parts


def test_views_describe_themselves():
    assert f"{SIX}" == "num_clips 2, num_crops 3, flip False"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_clips": 0}, "num_clips is 0; it must be at least 1"),
        ({"num_crops": 5}, "num_crops is 5; choose one of 1, 3, 10"),
        (
            {"num_crops": 10, "flip": True},
            "flip is True; that is for num_crops 1 or 3: 10 crops have their mirror images already",
        ),
    ],
)
def test_views_out_of_range_are_refused(fields, message):
    with pytest.raises(OptionError) as error:
        Views(**fields)
    assert error.value.problems == [message]
    config = ma52.get_config()
    config.eval.update(fields)
    assert f"config.eval.{message}" in outcome(lambda: configuration.parse(config))[1]


@pytest.mark.parametrize(
    ("size", "num_crops", "corners"),
    [
        ((40, 56), 1, [(4, 12)]),
        ((32, 48), 3, [(0, 0), (0, 8), (0, 16)]),  # the shorter side has crop_size pixels
        ((50, 32), 3, [(0, 0), (9, 0), (18, 0)]),
        ((40, 56), 10, [(0, 0), (0, 24), (8, 0), (8, 24), (4, 12)]),
    ],
)
def test_eval_crops_by_hand(size, num_crops, corners):
    crops = clips.eval_crops(coordinates(1, *size)[0], ClipSpec(short_side=40, crop_size=32), num_crops)
    assert crops.shape == (len(corners), 32, 32, 3)
    assert [tuple(crop[0, 0, 1:]) for crop in crops] == corners
    assert all((np.ptp(crop[..., 1:], (0, 1)) == 31).all() for crop in crops)


def test_eval_crops_scale_for_three_to_the_full_shorter_side():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    crops = clips.eval_crops(image, ClipSpec(short_side=40, crop_size=32), 3)
    scaled = clips.resize_short_side(image[None], 32)[0]
    np.testing.assert_array_equal(crops, [scaled[:, left : left + 32] for left in (0, 8, 16)])


def test_eval_clips_decode_a_video_once_for_all_views():
    calls = []
    video = video_of(coordinates(20, 40, 56), calls)
    spec = ClipSpec(num_frames=4, sampling="dense", frame_interval=3, short_side=40, crop_size=32)
    views = Views(num_clips=3, flip=True)
    found = clips.stored_eval_clips(video, {"video": spec}, views)
    starts = [0, 5, 10]  # of the clips, which span 10 frames of 20
    assert calls == [sorted({start + 3 * i for start in starts for i in range(4)})]
    for view in range(6):
        clip = found[view]["video"]
        assert clip.shape == (4, 32, 32, 3)
        assert clip[:, 0, 0, 0].tolist() == [starts[view // 2] + 3 * i for i in range(4)]
        assert clip[0, 0, [0, -1], 2].tolist() == [[12, 43], [43, 12]][view % 2]


INPUTS = {"video": ClipSpec(num_frames=2, short_side=40, crop_size=32)}


def examples(count):
    """Examples whose frames are as bright as the clip's number, and the frames that were read of them."""
    calls = []
    videos = [video_of(np.full((6, 40, 48, 3), 1 + i, np.uint8), calls) for i in range(count)]
    return [{"video": video, "video_id": b"%d" % i, "label": i} for i, video in enumerate(videos)], calls


@pytest.mark.parametrize("process_count", [1, 2])
def test_eval_batches_have_every_view_once(process_count):
    source, calls = examples(3)
    found = []
    for process in range(process_count):
        reading = Reading(num_threads=1, process_index=process, process_count=process_count)
        batches = list(input_pipeline.eval_batches(source, INPUTS, batch_size=4, views=SIX, reading=reading))
        assert len(batches) == 5  # 18 views in batches of 4
        found += [
            (int(index), int(label), int(video.max()))
            for batch in batches
            for index, label, video in zip(batch["index"], batch["label"], batch["video"], strict=True)
        ]
    views = sorted(each for each in found if each[0] >= 0)
    assert views == [(i, i // 6, 1 + i // 6) for i in range(18)]
    assert [video for index, _, video in found if index < 0] == [0, 0]
    if process_count == 1:
        assert len(calls) == 3


def three(names="abc"):
    return LabelSet(tuple(names), tuple(names), tuple(range(len(names))))


def test_average_views_means_probabilities():
    views = np.log(np.array([[[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]])) + np.array([[[5.0], [-7.0]]])  # softmax ignores it
    odds = np.array([[[3.0, 1.0, 0.25], [1.0, 1.0, 1.0]]])  # probabilities 3/4, 1/2, 1/5 and 1/2
    embedding = np.array([[[1, 2], [3, 6]]], np.float32)
    single = tasks.average_views([tasks.SingleLabel(three())], {"logits": views, "embedding": embedding})
    np.testing.assert_allclose(np.exp(single["logits"]), [[0.4, 0.25, 0.35]])
    np.testing.assert_allclose(tasks.SingleLabel(three()).probabilities(single["logits"]), [[0.4, 0.25, 0.35]])
    np.testing.assert_allclose(single["embedding"], [[2, 4]])
    several = tasks.MultiLabel(three())
    mean = tasks.average_views([several, tasks.Emotion(three())], {"logits": np.log(odds), "emotion": views})
    np.testing.assert_allclose(several.probabilities(mean["logits"]), [[0.625, 0.5, 0.35]])
    np.testing.assert_allclose(tasks.Emotion(three()).probabilities(mean["emotion"]), [[0.4, 0.25, 0.35]])


def test_average_views_is_finite_where_probabilities_are_not_numbers_of_float64():
    extreme = np.array([[[900.0, -900.0], [800.0, -800.0]]])
    for task in (tasks.SingleLabel(three("ab")), tasks.MultiLabel(three("ab"))):
        mean = tasks.average_views([task], {"logits": extreme})["logits"]
        assert np.isfinite(mean).all()
        np.testing.assert_allclose(task.probabilities(mean), [[1, 0]])


def test_average_views_leaves_a_single_view_as_it_is():
    logits = np.random.default_rng(0).normal(size=(4, 1, 3)).astype(np.float32)
    for task in (tasks.SingleLabel(three()), tasks.MultiLabel(three())):
        mean = tasks.average_views([task], {"logits": logits})["logits"]
        assert mean.dtype == np.float32
        np.testing.assert_array_equal(mean, logits[:, 0])


def softmax_mean(logits):
    return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1).mean(0)


@pytest.fixture(scope="module")
def viewed(folder, tmp_path_factory):
    """A run of drawn weights whose config asks for six views."""
    config = shrink(ma52.get_config(), folder)
    config.eval.num_clips, config.eval.num_crops = 2, 3
    return save(tmp_path_factory.mktemp("viewed") / "run", config)


def test_evaluation_averages_views_on_any_number_of_devices(viewed, folder):
    evaluation = manet_jax.evaluate_checkpoint(viewed)
    assert evaluation.views == SIX
    source, model = evaluation.dataset.source("val"), manet_jax.load_model(viewed)
    assert len(evaluation.predictions) == len(source) == 5
    (task,) = evaluation.tasks
    probabilities = task.probabilities(evaluation.predictions.outputs["logits"])
    for i in range(len(source)):
        found = clips.stored_eval_clips(source[i]["video"], model.inputs, SIX)
        expected = softmax_mean([model({"video": found[view]["video"][None]}).logits[0] for view in range(6)])
        np.testing.assert_allclose(probabilities[i], expected, rtol=1e-5)
    written = json.loads((viewed / "evaluation_val_best.json").read_text())
    assert (written["num_clips"], written["num_crops"], written["flip"]) == (2, 3, False)
    assert "means over 6 views of each clip (num_clips 2, num_crops 3, flip False)." in page.head(evaluation)

    mesh = parallel.make_mesh(1)
    saved = read_model(viewed, "best", parallel.replicated(mesh))
    parsed = configuration.parse(ml_collections.ConfigDict(saved.metadata.config))
    run = evaluate.create_evaluation(saved.graphdef, evaluation.dataset, mesh, saved.metadata, parsed)
    alone = run(saved.variables)
    for name, values in evaluation.predictions.outputs.items():
        np.testing.assert_allclose(alone.outputs[name], values, rtol=1e-5, atol=1e-6)
    for name, values in evaluation.predictions.targets.items():
        np.testing.assert_array_equal(alone.targets[name], values)


def test_predict_averages_the_views_of_the_run_or_of_the_flags(viewed, tmp_path, capsys):
    path = tmp_path / "a.mp4"
    write_clip(path, num_frames=17, height=48, width=80)
    model = manet_jax.load_model(viewed)
    assert model.views == SIX
    frames = [frame.picture.image() for frame in ClipFrames(path).read()]

    def expected(views):
        found = clips.stored_eval_clips(video_of(np.stack(frames)), model.inputs, views)
        logits = [model({"video": found[view]["video"][None]}).logits[0] for view in range(len(views))]
        return softmax_mean(logits)

    (own,), (single,) = model.predict(path), model.predict(path, views=SINGLE_VIEW)
    np.testing.assert_allclose(own.probabilities, expected(SIX), rtol=1e-5)
    np.testing.assert_allclose(single.probabilities, expected(SINGLE_VIEW), rtol=1e-5)
    assert np.abs(own.probabilities - single.probabilities).max() > 1e-4
    command = ["--workdir", str(viewed), "--json", str(path), "--num_clips", "1", "--num_crops", "10"]
    assert predict.main(command) == 0
    top = json.loads(capsys.readouterr().out)["top"]
    by_name = dict(zip(LABELS.names, expected(Views(num_crops=10)), strict=True))
    assert {each["action"]: each["probability"] for each in top} == pytest.approx(by_name, rel=1e-5)
    assert predict.main([*command, "--flip"]) == 2
    message = "--flip is True; that is for num_crops 1 or 3: 10 crops have their mirror images already"
    assert message in capsys.readouterr().err
