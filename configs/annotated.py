"""Videos annotated with ELAN or BORIS: windows of them, several micro-actions each.

python -m manet_jax.main --config configs/annotated.py --workdir runs/annotated --config.data.manual_dir=/data/annotated
"""

import ml_collections

from configs import ma52


def get_config() -> ml_collections.ConfigDict:
    config = ma52.get_config()
    config.data.manual_dir = "data/annotated"
    config.data.builder_config = "annotated_h264_256"
    config.multilabel.loss = "asymmetric"
    return config
