"""The paper's ablation in small, on generated clips; an arm is named after the colon.

python -m manet_jax.main --config configs/ablation.py:manet --workdir runs/manet
python -m manet_jax.ablation --workdir runs/ablation      all arms, several seeds, table and plots
"""

import ml_collections

from configs import ma52_synthetic

# Each arm adds one part to the one before it. All else is equal: data, schedule, learning rate, number of steps.
ARMS = {
    "single_frame": {"num_segments": 1, "shift": False, "se": False, "embedding": False},
    "tsn": {"shift": False, "se": False, "embedding": False},
    "tsm": {"se": False, "embedding": False},
    "tsm_se": {"embedding": False},
    "manet": {},
}


def get_config(arm: str = "manet") -> ml_collections.ConfigDict:
    if arm not in ARMS:
        raise ValueError(f"configs/ablation.py has no arm {arm!r}; name one of {', '.join(ARMS)} after a colon")
    config = ma52_synthetic.get_config()
    config.model.update(ARMS[arm])
    # Long enough that every arm leaves the plateau it starts on; squeeze-and-excitation takes longest.
    config.num_epochs = 36.0
    config.eval.every_epochs = 12.0
    return config
