"""The paper's ablation in small, on generated clips; an arm is named after the colon.

python -m manet_jax.main --config configs/ablation.py:manet --workdir runs/manet
python -m manet_jax.studies.ablation --workdir runs/ablation      all arms, several seeds, table and plots
"""

import ml_collections

from configs import ma52_synthetic
from configs.models.manet import VARIANTS

# Each arm adds one part to the one before it. All else is equal: data, schedule, learning rate, number of steps.
ARMS = {
    "single_frame": {"model": VARIANTS["tsn"], "clip": {"num_frames": 1}},
    **{name: {"model": options} for name, options in VARIANTS.items()},
}


def get_config(arm: str = "manet") -> ml_collections.ConfigDict:
    if arm not in ARMS:
        raise ValueError(f"configs/ablation.py has no arm {arm!r}; name one of {', '.join(ARMS)} after a colon")
    config = ma52_synthetic.get_config("sgd")
    config.update(ARMS[arm])
    # Long enough that every arm leaves the plateau it starts on; squeeze-and-excitation takes longest.
    config.num_epochs = 36.0
    config.eval.every_epochs = 12.0
    return config
