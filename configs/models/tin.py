"""TIN on MA-52: mmaction2's recipe from TSM's weights of Kinetics, its rate scaled to one device's 6 clips a step.

python -m manet_jax.pretrained --drop_classifier tsm.pth runs/kinetics
python -m manet_jax.main --config configs/models/tin.py --workdir runs/tin \
    --config.init_from=runs/kinetics --config.data.manual_dir=/data/MA-52
"""

import ml_collections

from configs import ma52


def get_config() -> ml_collections.ConfigDict:
    config = ma52.get_config()
    config.model = ml_collections.ConfigDict({"name": "tin", "embedding": False})
    config.model.update(depth=50, width=64, dropout=0.5, dtype="float32", remat=False)
    config.model.shift_div = 4  # 1 / shift_div of the channels move along time, by learned offsets
    config.batch_size, config.num_epochs = 6, 50.0
    config.optimizer.update(learning_rate=0.00125, clip_norm=40.0, head="classifier")  # of the classifier 5 times that
    config.schedule.decay_epochs = (20.0, 40.0)
    return config
