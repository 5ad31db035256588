import numpy as np
import pytest

from manet_jax.data import input_pipeline
from manet_jax.data.class_sampling import ClassSampling
from manet_jax.data.dataset import open_dataset
from manet_jax.data.input_pipeline import Reading
from manet_jax.models import ClipSpec
from tfds_ma52.errors import UserError

INPUTS = {"video": ClipSpec(num_frames=1, short_side=40, crop_size=32)}
CLASSES = np.random.default_rng(0).permutation(np.repeat([0, 1, 3, 4], [40, 9, 4, 1]))  # class 2 has no clips


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_classes_are_drawn_in_proportion_to_a_power_of_their_clips(exponent):
    sampling, drawn = ClassSampling(CLASSES, exponent), np.zeros(5)
    share = np.array([40, 9, 0, 4, 1.0]) ** exponent * [1, 1, 0, 1, 1]
    share /= share.sum()
    for epoch in range(50):
        order = sampling.order(7, epoch)
        assert len(order) == len(CLASSES)
        drawn += np.bincount(CLASSES[order], minlength=5)
        np.testing.assert_allclose(drawn, share * len(CLASSES) * (epoch + 1), atol=1)
    if exponent == 1:
        assert sorted(order) == list(range(len(CLASSES)))


def test_every_clip_of_a_class_is_drawn_before_any_comes_again():
    sampling = ClassSampling(CLASSES, 0.5)
    drawn = np.concatenate([sampling.order(7, epoch) for epoch in range(12)])
    for each in (0, 1, 3, 4):
        members = np.flatnonzero(each == CLASSES)
        of_class = drawn[CLASSES[drawn] == each]
        rounds = of_class[: len(of_class) // len(members) * len(members)].reshape(-1, len(members))
        assert len(rounds) >= 5
        assert (np.sort(rounds, axis=1) == members).all()
        assert len(members) < 9 or len(np.unique(rounds, axis=0)) == len(rounds)  # each in an order of its own


def test_classes_are_mixed_within_a_pass_and_differ_between_passes_and_seeds():
    sampling = ClassSampling(CLASSES, 0.5)
    order = sampling.order(7, 0)
    halves = [np.bincount(CLASSES[half], minlength=5) for half in np.split(order, 2)]
    assert all((half[[0, 1, 3, 4]] > 0).all() for half in halves)
    np.testing.assert_array_equal(order, ClassSampling(CLASSES, 0.5).order(7, 0))
    assert not any((order == other).all() for other in (sampling.order(7, 1), sampling.order(8, 0)))


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset({"manual_dir": folder})  # 12 clips of three classes, and 5


def batches(source, count, **options):
    """The names of the clips of some batches of 4, an array of a row each."""
    iterator = iter(input_pipeline.train_batches(source, INPUTS, batch_size=4, seed=3, **options))
    names = [next(iterator)["video_id"] for _ in range(count)]
    iterator.close()
    return np.array(names)


def names(source, order):
    return [source[int(i)]["video_id"].decode() for i in order]


def test_without_sampling_the_order_is_that_of_a_shuffled_pass(dataset):
    source = dataset.training_source(("train",))
    passes = [np.random.default_rng((3, epoch)).permutation(12) for epoch in range(2)]
    assert batches(source, 6).ravel().tolist() == names(source, np.concatenate(passes))


def test_sampled_batches_are_the_same_resumed_and_on_two_processes(dataset):
    source = dataset.training_source(("train", "val"))
    labels = source.labels()
    assert labels.tolist() == [example["label"] for example in source]
    sampling = ClassSampling(np.where(np.arange(17) < 12, 0, labels + 1), 0.0)  # a class of 12, and three of 1 or 2
    whole = batches(source, 9, sampling=sampling)
    expected = np.concatenate([sampling.order(3, epoch) for epoch in range(3)])[:36]
    assert whole.ravel().tolist() == names(source, expected)
    np.testing.assert_array_equal(batches(source, 4, sampling=sampling, start_step=5), whole[5:])
    readings = [Reading(process_index=i, process_count=2) for i in range(2)]
    parts = [batches(source, 9, sampling=sampling, reading=reading) for reading in readings]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_training_on_two_splits_takes_every_clip_of_both_once_a_pass(dataset):
    source = dataset.training_source(("train", "val"))
    assert len(source) == 17
    both = {name for split in ("train", "val") for name in dataset.video_ids(split)}
    passes = batches(source, 17).reshape(4, 17).tolist()
    assert [set(each) for each in passes] == [both] * 4
    assert dataset.training_counts(("train", "val")).tolist() == [6, 6, 5]
    assert dataset.training_counts(("val",)).tolist() == [2, 2, 1]
    np.testing.assert_allclose(dataset.positive_weights(("train", "val")), [11 / 6, 11 / 6, 12 / 5], rtol=1e-6)
    for index in (17, -1):
        with pytest.raises(IndexError):
            source[index]


def test_splits_that_cannot_be_trained_on_are_refused(dataset):
    for split in ("test", "validation"):
        with pytest.raises(UserError, match=f"^--train_splits: .* no split '{split}' with public labels; name some"):
            dataset.training_source(("train", split))
