"""MMA-82: recognition in a domain, and of a domain in another one. The recipe of MA-52: MMA-82's own is not published.

python -m manet_jax.main --config configs/mma82.py --workdir runs/laboratory --config.data.manual_dir=/data/MMA-82
python -m manet_jax.main --mode=evaluate --workdir runs/laboratory --splits laboratory_test,psychiatric_test,street_test

After the colon: manet (as without) or gc_tsm, MMA-82's own baseline. From laboratory to five clips a class of another:

python -m tfds_ma52.k_shot /data/MMA-82 --k 5 --split psychiatric_train --out psychiatric_5.txt
python -m manet_jax.main --config configs/mma82.py --workdir runs/psychiatric_5 --config.data.manual_dir=/data/MMA-82 \
    --config.init_from=runs/laboratory --config.data.train_splits="('psychiatric_train',)" \
    --config.data.train_list=psychiatric_5.txt --config.eval.split=psychiatric_val
"""

import ml_collections

from configs import ma52
from configs.models import gc_tsm

ARMS = {"manet": ma52, "gc_tsm": gc_tsm}


def get_config(arm: str = "manet") -> ml_collections.ConfigDict:
    if arm not in ARMS:
        raise ValueError(f"configs/mma82.py has no arm {arm!r}; name one of {', '.join(ARMS)} after a colon")
    config = ARMS[arm].get_config()
    config.data.manual_dir = "data/mma82"
    config.data.builder_config = "mma82_h264_256"
    config.data.train_splits = ("laboratory_train",)
    config.eval.split = "laboratory_val"
    return config
