"""MANet and the MA-52 micro-action benchmark in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manet_jax.ensemble import evaluate_ensemble, load_ensemble
    from manet_jax.evaluate import evaluate_checkpoint
    from manet_jax.loaded_model import load_model
    from manet_jax.models import Outputs

__all__ = ["Outputs", "evaluate_checkpoint", "evaluate_ensemble", "load_ensemble", "load_model"]

_MODULES = {
    "Outputs": "models",
    "evaluate_checkpoint": "evaluate",
    "evaluate_ensemble": "ensemble",
    "load_ensemble": "ensemble",
    "load_model": "loaded_model",
}


def __getattr__(name: str) -> Any:
    # Late, so that importing the package is quick and starts no device.
    if name in _MODULES:
        return getattr(importlib.import_module(f"manet_jax.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
