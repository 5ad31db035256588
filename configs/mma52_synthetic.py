"""A small MANet on windows of generated, untrimmed videos with several micro-actions at once, in minutes on a laptop.

python -m manet_jax.main --config configs/mma52_synthetic.py --workdir runs/mma52_first
"""

import ml_collections

from configs import ma52_synthetic


def get_config() -> ml_collections.ConfigDict:
    config = ma52_synthetic.get_config()
    config.data.manual_dir = "data/mma52_synthetic"
    config.data.builder_config = "mma52_jpeg_256"  # quick to build and to read, and the windows are small
    config.data.synthetic.untrimmed = True
    config.data.synthetic.size = 0.2  # 40 videos to train, 20 to validate, 90 s each
    config.multilabel.loss = "asymmetric"
    config.num_epochs = 3.0
    config.eval.every_epochs = 3.0
    return config
