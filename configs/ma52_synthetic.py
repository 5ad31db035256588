"""A small MANet on generated clips: the first run, a few minutes on a laptop.

python -m manet_jax.main --config configs/ma52_synthetic.py --workdir runs/first
"""

import ml_collections

from configs import ma52


def get_config() -> ml_collections.ConfigDict:
    config = ma52.get_config()
    config.data.manual_dir = "data/ma52_synthetic"
    config.data.synthetic.size = 0.1
    config.data.synthetic.short_side = 96
    config.data.builder_config = "jpeg_256"  # of their own size; read three times as fast as the drawn files
    config.clip.short_side = 74
    config.clip.crop_size = 64
    # From the whole frame, most crops would cut head or feet off, and the action with them.
    config.clip.center_crop_first = True
    config.clip.crop_scales = (1.0, 0.95)

    config.model.depth = 14
    config.model.width = 16

    # From fresh weights on few clips the steps must be larger than in the paper's fine-tuning, and the label vectors
    # must not drown the classes.
    config.batch_size = 16
    config.num_epochs = 20.0
    config.model.dropout = 0.0
    config.embedding_weight = 10.0
    config.optimizer.learning_rate = 0.04
    config.optimizer.head_lr_multiplier = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.0

    config.eval.every_epochs = 10.0
    config.log_every_steps = 20
    config.checkpoint_every_steps = 200
    return config
