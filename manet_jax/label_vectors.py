"""Label names -> vectors, the targets of the joint embedding."""

import collections
import hashlib
import logging
import pathlib
import re
import tokenize
import unicodedata
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tfds_ma52.errors import UserError

_log = logging.getLogger(__name__)

# Both are GloVe 6B.50d, made by tools/make_word_vectors.py.
MA52_WORDS = pathlib.Path(__file__).with_name("word_vectors.npz")  # of MA-52's labels, float32
FREQUENT_WORDS = pathlib.Path(__file__).with_name("frequent_word_vectors.npz")  # the 20,000 most frequent, float16
_WAYS_OUT = (
    "Set --config.label_vectors=random (a fixed random vector for each name), or --config.model.embedding=False "
    "(training without the joint embedding), or --config.label_vectors=FILE: a text file of word vectors with such "
    "words (https://nlp.stanford.edu/projects/glove), or an .npy table with a row for each label."
)
_LEFT_OUT = {"or"}  # the released table leaves it out too
# Of random vectors, whose numbers are this or its negative: the root mean square of the numbers of MA-52's label
# vectors. The joint-embedding loss is a mean square that is not normalised, so that it starts as large as with those,
# and `embedding_weight` and `clip_norm` keep their meaning.
_RANDOM_SCALE, _RANDOM_SIZE = 0.56, 50


def words_of(name: str) -> list[str]:
    """The words of a label name whose vectors are averaged, in lower case.

    They are runs of Latin letters, divided also where capitals begin ("touchNose", "touch_nose" and "touch nose" are
    alike), without accents ("é" is "e"). Digits and other scripts have no words.
    """
    decomposed = unicodedata.normalize("NFKD", name)
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    divided = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", plain)
    # Letters such as "ß" have no plain form; their words stay whole, for tables that spell them so.
    return [word for word in re.findall("[a-zß-öø-ɏ]+", divided.lower()) if word not in _LEFT_OUT]


def digest(vectors: Float[np.ndarray, "n e"]) -> str:
    """A short digest of label vectors, which a run records."""
    return hashlib.sha256(vectors.tobytes()).hexdigest()[:16]


def load_label_vectors(source: str, names: Sequence[str]) -> Float[np.ndarray, "n e"]:
    """Returns one vector for each label.

    Args:
      source: a `.npy` file with a row for each label, such as the release's `1214_new_mean_Vectors.npy`; or a text file
        of word vectors in GloVe's format (`word number number ...` a line); or "" for the tables in this package, the
        GloVe 6B.50d vectors of the words of MA-52's labels and of the 20,000 most frequent English ones. From word
        vectors, a label's vector is the mean over those words of its name that have one ("straightly" has none in
        GloVe 6B). Or "random": a vector that depends on the label's name alone, for names without known words.
      names: the labels.

    Raises:
      UserError: the file is missing or of another form, or has no word of some labels, or the same words for
        several; all of those are reported.
    """
    if not source:
        vectors = _read_shipped(FREQUENT_WORDS) | _read_shipped(MA52_WORDS)  # the latter are exact
        return _mean_vectors(vectors, names, "the package's table of English words")
    if source == "random":
        return np.stack([_random_vector(name) for name in names])
    path = pathlib.Path(source).expanduser()
    if not path.is_file():
        raise UserError(
            f"label_vectors: there is no file {path}; give an .npy or GloVe text file, 'random', or leave it empty"
        )
    if path.suffix == ".npy":
        return _read_table(path, len(names))
    wanted = {word for name in names for word in words_of(name)}
    return _mean_vectors(_read_glove(path, wanted), names, str(path))


def _read_shipped(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path) as table:
        return dict(zip(table["words"].tolist(), table["vectors"].astype(np.float32), strict=True))


def _random_vector(name: str) -> np.ndarray:
    """Signs by the bits of the name's SHA-256: the same on every machine and with every version of NumPy."""
    bits = np.unpackbits(np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint8))[:_RANDOM_SIZE]
    return np.where(bits, _RANDOM_SCALE, -_RANDOM_SCALE).astype(np.float32)


def _mean_vectors(vectors: dict[str, np.ndarray], names: Sequence[str], source: str) -> np.ndarray:
    known = {name: [word for word in words_of(name) if word in vectors] for name in names}
    unknown = [name for name, words in known.items() if not words]
    if unknown:
        raise UserError(
            f"label_vectors: {source} has no vector for any word of {', '.join(map(repr, unknown))}. {_WAYS_OUT}"
        )
    skipped = sorted({word for name in names for word in words_of(name) if word not in vectors})
    if skipped:
        _log.info("label vectors: %s has no vector for %s; left out of the means", source, ", ".join(skipped))
    alike = [names for names in _by_words(known).values() if len(names) > 1]
    if alike:
        raise UserError(
            f"label_vectors: from {source} these labels get the same vector: "
            f"{'; '.join(' = '.join(map(repr, names)) for names in alike)}. {_WAYS_OUT}"
        )
    return np.stack([np.mean([vectors[word] for word in known[name]], axis=0) for name in names]).astype(np.float32)


def _by_words(known: dict[str, list[str]]) -> dict[tuple[str, ...], list[str]]:
    names = collections.defaultdict(list)
    for name, words in known.items():
        names[tuple(sorted(words))].append(name)
    return names


def _read_table(path: pathlib.Path, num_labels: int) -> np.ndarray:
    try:
        # Nothing is read of what a false header announces, and pickled objects are refused.
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of headers that Python 2 wrote
            table = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        raise UserError(f"label_vectors: {path} is not a plain .npy array ({error})") from error
    if table.ndim != 2 or len(table) != num_labels or not table.size or not np.issubdtype(table.dtype, np.floating):
        raise UserError(
            f"label_vectors: {path} holds {table.dtype} {list(table.shape)}; expected floats [{num_labels}, dimensions]"
        )
    with np.errstate(over="ignore"):
        table = table.astype(np.float32)
    if not np.isfinite(table).all():
        raise UserError(f"label_vectors: {path} holds values that are not finite float32 numbers")
    return table


def _read_glove(path: pathlib.Path, wanted: set[str]) -> dict[str, np.ndarray]:
    vectors, size = {}, None
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            word, *values = line.rstrip().split(" ")
            if word not in wanted:
                continue
            try:
                with np.errstate(over="ignore"):
                    vectors[word] = np.array(values, np.float32)
            except ValueError as error:
                raise UserError(f"label_vectors: {path}:{number}: expected '<word> <number> ...'") from error
            size = size or len(values)
            if len(values) != size or not size:
                raise UserError(f"label_vectors: {path}:{number}: expected {size} numbers, found {len(values)}")
            if not np.isfinite(vectors[word]).all():
                raise UserError(f"label_vectors: {path}:{number}: not all numbers are finite in float32")
    return vectors
