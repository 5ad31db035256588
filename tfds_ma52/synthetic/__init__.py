"""A synthetic stand-in for MA-52: `python -m tfds_ma52.synthetic DIR` writes a folder in its layout."""

from tfds_ma52.synthetic.writer import check_settings, write_synthetic

__all__ = ["check_settings", "write_synthetic"]
