"""The networks of MA-52's paper, VideoMAE and GC-TSM, each with its own recipe; one is named after the colon.

python -m manet_jax.studies.benchmark --workdir runs/benchmark --init_from weights --config.data.manual_dir=/data/MA-52
python -m manet_jax.studies.benchmark --config configs/benchmark.py:synthetic --seeds 1 --workdir runs/benchmark_small

`configs/benchmark.py:synthetic` has small ones for generated clips, from fresh weights: they show that each learns, in
minutes, and say nothing about the order of the networks themselves.
"""

import ml_collections

from configs import ma52_synthetic
from configs.models import c3d, gc_tsm, i3d, manet, slowfast, swin, timesformer, tin, uniformer, videomae

ARMS = {
    "c3d": c3d.get_config,
    "i3d": i3d.get_config,
    "slowfast": slowfast.get_config,
    "tsn": lambda: manet.get_config("tsn"),
    "tsm": lambda: manet.get_config("tsm"),
    "tin": tin.get_config,
    "gc_tsm": gc_tsm.get_config,
    "timesformer": timesformer.get_config,
    "videomae": videomae.get_config,
    "uniformer": uniformer.get_config,
    "swin": lambda: swin.get_config("small"),  # the size of MA-52's authors
    "manet": manet.get_config,
}
REFERENCE = "manet"

# Beside the options of each network, the frames of a clip and the rate of Muon.
_RESNET = {"depth": 14, "width": 16}
_SMALL = {
    "c3d": ({"width": 8}, 16, 0.003),
    "i3d": (_RESNET, 16, 0.01),
    "slowfast": ({**_RESNET, "tau": 4, "alpha": 4, "lateral_kernel": 5}, 16, 0.01),
    "tsn": (_RESNET, 8, 0.01),
    "tsm": (_RESNET, 8, 0.01),
    "tin": (_RESNET, 8, 0.01),
    "gc_tsm": (_RESNET, 8, 0.01),
    "timesformer": (
        {"depth": 4, "width": 64, "num_heads": 4, "patch_size": 8, "table_size": 64, "drop_path": 0.0},
        8,
        0.003,
    ),
    "videomae": ({"depth": 4, "width": 96, "num_heads": 4, "patch_size": 8, "drop_path": 0.0}, 8, 0.003),
    "uniformer": ({"depths": (1, 1, 2, 1), "widths": (16, 32, 64, 128), "head_size": 32, "drop_path": 0.0}, 8, 0.003),
    "swin": (
        {"depth": 1, "width": 24, "num_heads": 2, "window_frames": 4, "window_size": 4, "drop_path": 0.0},
        8,
        0.003,
    ),
    "manet": (_RESNET, 8, 0.01),
}


def get_config(arm: str = "manet") -> ml_collections.ConfigDict:
    size, _, name = arm.rpartition(":")
    if name not in ARMS or size not in ("", "synthetic"):
        raise ValueError(
            f"configs/benchmark.py has no network {arm!r}; name one of {', '.join(ARMS)} after a colon or :synthetic:"
        )
    return _shrink(name) if size else ARMS[name]()


def _shrink(name: str) -> ml_collections.ConfigDict:
    """A small network of a kind on generated clips, of which all see frames from the whole length."""
    config = ma52_synthetic.get_config()
    options, num_frames, learning_rate = _SMALL[name]
    embedding = config.model.embedding and name == "manet"
    config.model = ARMS[name]().model
    config.model.update(dropout=0.0, dtype="float32", **options)
    config.model.embedding = embedding
    config.clip.num_frames = num_frames
    config.optimizer.learning_rate = learning_rate
    config.eval.every_epochs = config.num_epochs
    return config
