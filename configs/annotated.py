"""Videos annotated with ELAN or BORIS: windows of them, several micro-actions each.

python -m manet_jax.main --config configs/annotated.py --workdir runs/annotated --config.data.manual_dir=/data/annotated

After a colon, `small` is the small network of configs/mma52_synthetic.py, to go on from a run of it.
"""

import ml_collections

from configs import mma52, mma52_synthetic

NETWORKS = {"full": mma52, "small": mma52_synthetic}


def get_config(network: str = "full") -> ml_collections.ConfigDict:
    if network not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise ValueError(f"configs/annotated.py has no network {network!r}; name one of {known} after a colon")
    config = NETWORKS[network].get_config()
    config.data.manual_dir = "data/annotated"
    config.data.builder_config = config.data.builder_config.replace("mma52", "annotated")
    config.data.synthetic.size = 0.0  # the folder is somebody's work: nothing is drawn into it
    return config
