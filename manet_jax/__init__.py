"""MANet and the MA-52 micro-action benchmark in JAX."""

from typing import Any

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    # Late, so that importing the package is quick and starts no device.
    if name == "load_model":
        from manet_jax.checkpoint import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
