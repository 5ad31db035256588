"""Makes the golden files that are ours (listed in README.md): python tests/golden/make_golden.py. Needs PyTorch."""

import csv
import json
import pathlib
import sys

import numpy as np
import sklearn.metrics
import torch

GOLDEN = pathlib.Path(__file__).parent
sys.path.insert(0, str(GOLDEN.parent))

from golden import inputs  # noqa: E402
from torch_reference import manet as torch_manet  # noqa: E402


def recorded_steps(dtype, seed=0):
    """The three recorded training steps by plain PyTorch; results in float32 scatter around those in float64."""
    model = torch_manet.load(inputs.weights(seed)).to(dtype)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    optimizer = torch_manet.create_optimizer(model)
    video, labels = torch.tensor(inputs.clips(seed)), torch.tensor(inputs.LABELS)
    vectors = torch.tensor(inputs.label_vectors(seed)).to(dtype)
    steps = [torch_manet.train_step(model, optimizer, video, labels, vectors) for _ in range(3)]
    changes = {name: (tensor.detach() - before[name]).norm().item() for name, tensor in model.named_parameters()}
    return {"losses": [s[0] for s in steps], "grad_norms": [s[1] for s in steps], "param_delta_norms": changes}


def predictions(num_clips=300, seed=0):
    """True classes and five ranked guesses; some classes occur only as target, some only as guess, some not at all."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(num_clips, 52))
    target = rng.choice([*range(5, 30), 33, 44, 50], num_clips)
    scores[:, 48:] -= 9
    scores[:, [7, 12]] -= 9
    scores[np.arange(num_clips), target] += rng.choice([0, 2, 4], num_clips)
    return target, np.argsort(-scores, axis=1)[:, :5]


def published_metrics(target, ranked):
    """The eight published metrics, by scikit-learn from the predictions themselves."""
    body_of = np.searchsorted([5, 11, 24, 32, 38, 48], np.arange(52), side="right")
    action, body = (target, ranked[:, 0]), (body_of[target], body_of[ranked[:, 0]])
    f1 = [
        sklearn.metrics.f1_score(*pair, average=average, zero_division=0)
        for pair in (body, action)
        for average in ("macro", "micro")
    ]
    return {
        "body_top1": sklearn.metrics.accuracy_score(*body),
        "action_top1": sklearn.metrics.accuracy_score(*action),
        "action_top5": float(np.mean([label in guesses for label, guesses in zip(target, ranked, strict=True)])),
        **dict(zip(("body_f1_macro", "body_f1_micro", "action_f1_macro", "action_f1_micro"), f1, strict=True)),
        "f1_mean": float(np.mean(f1)),
    }


if __name__ == "__main__":
    (GOLDEN / "exact_training.json").write_text(json.dumps(recorded_steps(torch.float64), indent=1) + "\n")
    target, ranked = predictions()
    with (GOLDEN / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["label", *(f"guess_{i}" for i in range(1, 6))])
        writer.writerows(np.column_stack([target, ranked]).tolist())
    (GOLDEN / "predictions.json").write_text(json.dumps(published_metrics(target, ranked), indent=1) + "\n")
