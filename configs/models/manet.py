"""MANet and what the paper takes away from it, with the recipe of configs/ma52.py; a variant is named after the colon.

python -m manet_jax.main --config configs/models/manet.py:tsm --workdir runs/tsm --config.data.manual_dir=/data/MA-52
"""

import ml_collections

from configs import ma52

VARIANTS = {
    "tsn": {"shift": False, "se": False, "embedding": False},
    "tsm": {"se": False, "embedding": False},
    "tsm_se": {"embedding": False},
    "manet": {},
}


def get_config(variant: str = "manet") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(f"configs/models/manet.py has no variant {variant!r}; name one of {known} after a colon")
    config = ma52.get_config()
    config.model.update(VARIANTS[variant])
    return config
