"""Videos annotated with ELAN or BORIS: windows of them, several micro-actions each.

python -m manet_jax.main --config configs/annotated.py --workdir runs/annotated --config.data.manual_dir=/data/annotated
"""

import ml_collections

from configs import mma52


def get_config() -> ml_collections.ConfigDict:
    config = mma52.get_config()
    config.data.manual_dir = "data/annotated"
    config.data.builder_config = "annotated_h264_256"
    return config
