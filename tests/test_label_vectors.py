import numpy as np
import pytest

from manet_jax.label_vectors import load_label_vectors, words_of
from tfds_ma52 import labels
from tfds_ma52.errors import UserError


def test_load_gives_the_means_of_shipped_word_vectors():
    vectors = dict(zip(labels.MA52_NAMES, load_label_vectors("", labels.MA52_NAMES), strict=True))
    assert {vector.shape for vector in vectors.values()} == {(50,)}
    assert len({tuple(vector) for vector in vectors.values()}) == 52
    single = load_label_vectors("", ["nodding", "shaking", "head"])
    np.testing.assert_allclose(vectors["nodding"], single[0])
    np.testing.assert_allclose(vectors["shaking head"], (single[1] + single[2]) / 2, rtol=1e-5)
    # The line of "head" in glove.6B.50d.txt begins with these numbers.
    np.testing.assert_allclose(single[2][:4], [-0.28054, 0.30915, -0.20189, 0.029534], atol=1e-6)


def test_words_of_leaves_or_out():
    assert words_of("Scratching or touching neck") == ["scratching", "touching", "neck"]


def test_load_leaves_words_without_vectors_out():
    np.testing.assert_array_equal(*(load_label_vectors("", [name]) for name in ("sitting", "sitting straightly")))


def test_load_of_an_npy_table(tmp_path):
    table = np.random.default_rng(0).normal(size=(2, 7))
    np.save(tmp_path / "t.npy", table)
    loaded = load_label_vectors(str(tmp_path / "t.npy"), ["a", "b"])
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded, table, rtol=1e-6)


def test_load_of_a_glove_text_file(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("the 0 0\nhead 1 2\nup 3 -4\n")
    np.testing.assert_array_equal(load_label_vectors(str(path), ["head up", "head"]), [[2, -1], [1, 2]])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.npy", None, r"there is no file .*none.npy; give an .npy or GloVe text file, or leave it empty$"),
        ("t.npy", np.zeros((3, 4)), r"holds float64 \[3, 4\]; expected floats \[2, dimensions\]"),
        ("t.npy", np.zeros((2, 4), int), r"holds int64 \[2, 4\]"),
        ("t.npy", np.zeros(2), r"holds float64 \[2\]"),
        ("t.npy", np.full((2, 4), np.nan), "not finite"),
        ("t.npy", b"text", "is not a plain .npy array"),
        ("t.npy", np.array([{}, {}], object), "is not a plain .npy array"),
        ("glove.txt", b"head 1 2\n", "has no vector for any word of 'nodding'"),
        ("glove.txt", b"head 1 2\nnodding 1\n", "glove.txt:2: expected 2 numbers, found 1"),
        ("glove.txt", b"head 1 x\n", "glove.txt:1: expected '<word> <number> ...'"),
    ],
)
def test_load_reports_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        load_label_vectors(str(path), ["head up", "nodding"])


def test_load_of_unknown_labels_lists_the_ways_out():
    with pytest.raises(
        UserError, match=r"'moonwalk', '42'(.|\n)*--config.label_vectors(.|\n)*--config.model.embedding"
    ):
        load_label_vectors("", ["nodding", "moonwalk", "42"])


def test_load_refuses_labels_with_the_same_words():
    with pytest.raises(UserError, match=r"the same vector: 'left head' = 'head moonwalk'\. Set --config.label_vectors"):
        load_label_vectors("", ["left head", "nodding", "head moonwalk"])
