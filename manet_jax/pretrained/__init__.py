"""Weights from PyTorch, and back: one table for each family of files, and one engine for all of them.

A table (`table.WeightTable`) gives the names that a family of files has for a network's variables. `table.py` does the
rest, in both directions: it reports all that is wrong with a file at once, and never changes with a new family.
"""

from manet_jax.pretrained import (
    c3d,
    gc_tsm,
    i3d,
    manet,
    slowfast,
    swin,
    timesformer,
    tin,
    torchvision_resnet,
    uniformer,
    videomae,
)

# Of two that count as many names of a file, the first is its table.
TABLES = [
    *(manet.TABLE, manet.TSN, tin.TABLE, gc_tsm.TABLE),
    *(i3d.TABLE, slowfast.TABLE, c3d.TABLE, c3d.SPORTS_1M),
    *(torchvision_resnet.TABLE, *videomae.TABLES, *timesformer.TABLES, *uniformer.TABLES, *swin.TABLES),
]
