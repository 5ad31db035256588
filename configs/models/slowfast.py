"""SlowFast on MA-52, from weights of Kinetics; a variant is named after the colon: `4x16` or `8x8`.

python -m manet_jax.pretrained --drop_classifier slowfast.pth runs/kinetics
python -m manet_jax.main --config configs/models/slowfast.py:4x16 --workdir runs/slowfast \
    --config.init_from=runs/kinetics --config.data.manual_dir=/data/MA-52

No recipe for MA-52 is public; this is I3D's. Weights of images (runs/imagenet) are inflated into the slow path.
"""

import ml_collections

from configs.models import i3d

VARIANTS = {
    "4x16": {"tau": 8, "alpha": 8, "lateral_kernel": 5},
    "8x8": {"tau": 4, "alpha": 4, "lateral_kernel": 7},
}


def get_config(variant: str = "4x16") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(f"configs/models/slowfast.py has no variant {variant!r}; name one of {known} after a colon")
    config = i3d.get_config()
    config.model.name = "slowfast"
    config.model.update(VARIANTS[variant])
    return config
