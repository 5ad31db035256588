"""A synthetic stand-in for MA-52: `python -m tfds_ma52.synthetic DIR` writes a folder in its layout."""

from tfds_ma52.synthetic.writer import write_synthetic

__all__ = ["write_synthetic"]
