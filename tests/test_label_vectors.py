import hashlib

import numpy as np
import pytest

from manet_jax.label_vectors import FREQUENT_WORDS, load_label_vectors, words_of
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


def test_label_vectors_of_ma52_keep_every_bit():
    vectors = load_label_vectors("", labels.MA52_NAMES)
    # Recorded when the package had no other words; trained models depend on it.
    recorded = "f449d64fe2c19d61cd429b36c48ddda4d616c17b329088c3126a3e5e3ef4e633"
    assert hashlib.sha256(vectors.tobytes()).hexdigest() == recorded


def test_load_knows_frequent_english_words():
    walk, run, both = load_label_vectors("", ["walk", "run", "walk_run"])
    # The lines of these words in glove.6B.50d.txt begin with these numbers.
    np.testing.assert_allclose(walk[:5], [0.41281, 0.9111, -0.078414, -0.46515, 0.61895], rtol=2**-11)
    np.testing.assert_allclose(run[:5], [-0.39488, -0.16448, 0.5962, 0.65815, -0.16846], rtol=2**-11)
    np.testing.assert_allclose(both, (walk + run) / 2, rtol=1e-6)
    assert len({tuple(vector) for vector in load_label_vectors("", ["walk", "run", "catch", "sit"])}) == 4


def test_shipped_frequent_words_are_glove_s_first():
    with np.load(FREQUENT_WORDS) as table:
        words, vectors = table["words"].tolist(), table["vectors"]
    assert words[:8] == ["the", "of", "to", "and", "in", "a", "for", "that"]  # without GloVe's "," and "."
    assert len(set(words)) == len(words) == 20_000
    assert vectors.shape == (20_000, 50)
    assert np.isfinite(vectors).all()
    assert FREQUENT_WORDS.stat().st_size < 2.5e6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Scratching or touching neck", ["scratching", "touching", "neck"]),
        ("touchNose", ["touch", "nose"]),
        ("TOUCH_NOSE", ["touch", "nose"]),
        ("TVRemote", ["tv", "remote"]),
        ("3 steps2left", ["steps", "left"]),
        ("na\u00efve, nai\u0308ve", ["naive", "naive"]),  # composed and decomposed
        ("Fuß heben", ["fuß", "heben"]),  # not "fu"
        ("点头nodding", ["nodding"]),
        ("点头 42", []),
    ],
)
def test_words_of_a_name(name, words):
    assert words_of(name) == words


def test_random_vectors_depend_on_the_name_alone():
    nod, wave, walk = load_label_vectors("random", ["点头", "挥手", "walk"])
    again = load_label_vectors("random", ["walk", "点头"])
    np.testing.assert_array_equal(again, [walk, nod])
    assert again.shape == (2, 50)
    assert again.dtype == np.float32
    # Half of the 50 signs differ, more or less; the numbers are as large as MA-52's label vectors on the mean.
    assert all(10 < (left != right).sum() < 40 for left, right in [(nod, wave), (nod, walk), (wave, walk)])
    rms = np.sqrt(np.square(load_label_vectors("", labels.MA52_NAMES)).mean())
    np.testing.assert_allclose(np.abs(again), rms, rtol=0.01)
    # SHA-256 of "abc" is ba7816bf 8f01...: 1011 1010 0111 1000 0001 0110
    signs = "101110100111100000010110"
    expected = [0.56 if bit == "1" else -0.56 for bit in signs]
    np.testing.assert_allclose(load_label_vectors("random", ["abc"])[0][:24], expected, rtol=1e-6)


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
        (
            "none.npy",
            None,
            r"there is no file .*none.npy; give an .npy or GloVe text file, 'random', or leave it empty$",
        ),
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


WAYS_OUT = (
    "Set --config.label_vectors=random (a fixed random vector for each name), or --config.model.embedding=False "
    "(training without the joint embedding), or --config.label_vectors=FILE: a text file of word vectors with such "
    "words (https://nlp.stanford.edu/projects/glove), or an .npy table with a row for each label."
)


def test_load_of_unknown_labels_lists_the_ways_out():
    with pytest.raises(UserError) as error:
        load_label_vectors("", ["nodding", "点头", "42", "walk", "blorfing"])
    assert str(error.value) == (
        "label_vectors: the package's table of English words has no vector for any word of '点头', '42', 'blorfing'. "
        + WAYS_OUT
    )


def test_load_refuses_labels_with_the_same_words():
    with pytest.raises(UserError) as error:
        load_label_vectors("", ["left head", "walk1", "nodding", "HeadLeft", "walk 2"])
    assert str(error.value) == (
        "label_vectors: from the package's table of English words these labels get the same vector: "
        "'left head' = 'HeadLeft'; 'walk1' = 'walk 2'. " + WAYS_OUT
    )
