"""A small MANet on generated clips: the first run, a few minutes on a laptop.

python -m manet_jax.main --config configs/ma52_synthetic.py --workdir runs/first

The name after a colon is that of the optimiser: `muon`, as without, or `sgd`, which the studies use.
"""

import ml_collections

from configs import ma52

# From fresh weights on few clips the steps must be larger than in the paper's fine-tuning.
OPTIMIZERS = {
    "muon": {
        "batch_size": 8,
        "num_epochs": 9.0,
        "eval": {"every_epochs": 4.5},
        "optimizer": {"name": "muon", "learning_rate": 0.01, "weight_decay": 0.05, "betas": (0.9, 0.99)},
    },
    "sgd": {
        "batch_size": 16,
        "num_epochs": 20.0,
        "eval": {"every_epochs": 3.0},
        "optimizer": {"learning_rate": 0.04},
    },
}


def get_config(optimizer: str = "muon") -> ml_collections.ConfigDict:
    if optimizer not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise ValueError(f"configs/ma52_synthetic.py has no optimiser {optimizer!r}; name one of {known} after a colon")
    config = ma52.get_config()
    config.data.manual_dir = "data/ma52_synthetic"
    config.data.synthetic.size = 0.1
    config.data.synthetic.short_side = 96
    config.data.synthetic.frame_rate = 10  # of which a clip has 15 to 25, and the network sees 8
    config.data.builder_config = "original"  # the clips are small and quick to read as they are
    config.clip.short_side = 74
    config.clip.crop_size = 64
    # From the whole frame, most crops would cut head or feet off, and the action with them.
    config.clip.center_crop_first = True
    config.clip.crop_scales = (1.0, 0.95)

    config.model.depth = 14
    config.model.width = 16
    config.model.dropout = 0.0

    config.update(OPTIMIZERS[optimizer])
    config.embedding_weight = 10.0  # the label vectors must not drown the classes
    config.optimizer.head_lr_multiplier = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.0

    config.log_every_steps = 20
    config.checkpoint_every_steps = 200
    return config
