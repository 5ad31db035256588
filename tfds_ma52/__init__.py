"""TFDS builder for Micro-Action-52 (MA-52) and data sets in its layout."""
