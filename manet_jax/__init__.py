"""MANet and the MA-52 micro-action benchmark in JAX."""
