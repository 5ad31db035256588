"""MMA-52: windows of untrimmed videos, several micro-actions each.

python -m manet_jax.main --config configs/mma52.py --workdir runs/mma52 --config.data.manual_dir=/data/MMA-52
"""

import ml_collections

from configs import ma52


def get_config() -> ml_collections.ConfigDict:
    config = ma52.get_config()
    config.data.manual_dir = "data/mma52"
    config.data.builder_config = "mma52_h264_256"
    config.multilabel.loss = "asymmetric"
    return config
