"""The metrics of training steps between two lines of the log."""

import time
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array


class NonFiniteLossError(Exception):
    """The training run has diverged; the text gives the step and the last good checkpoint."""


class StepMeter:
    """Collects the metrics of the steps since the last reading, and how long they and their data took."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Starts a new interval now."""
        self._pending: list[dict[str, Array]] = []
        self._waited, self._start = 0.0, time.perf_counter()

    def wait_for(self, batches: Iterator[dict[str, Array]]) -> dict[str, Array]:
        """Returns the next batch."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def add(self, metrics: dict[str, Array]) -> None:
        """Keeps a step's metrics on the devices, so that the step need not be waited for."""
        self._pending.append(metrics)
        # Two steps ahead keep the devices busy; more would only hold the memory of their batches.
        jax.block_until_ready(self._pending[:-2][-1:])

    def read(self, step: int, last_good: int | None) -> dict[str, float]:
        """Returns means over the steps since the last reading, which ends at `step`, and starts a new interval.

        Raises:
          NonFiniteLossError: a loss was not a finite number.
        """
        pending = jax.device_get(self._pending)
        for number, metrics in enumerate(pending, step - len(pending) + 1):
            if not np.isfinite([metrics["loss"], metrics["grad_norm"], metrics["param_norm"]]).all():
                kept = f"the last good checkpoint is of step {last_good}" if last_good else "there is no checkpoint yet"
                raise NonFiniteLossError(
                    f"the training run has diverged: at step {number} the loss is {metrics['loss']}, the gradient's "
                    f"norm {metrics['grad_norm']}, the parameters' norm {metrics['param_norm']}; {kept}. Lower "
                    "--config.optimizer.learning_rate or add --config.schedule.warmup_epochs, with another --workdir."
                )
        seconds = time.perf_counter() - self._start
        means = {name: float(np.mean([metrics[name] for metrics in pending])) for name in pending[0]}
        timing = {
            "clips_per_second": len(pending) * self._batch_size / seconds,
            "data_wait_share": self._waited / seconds,
        }
        self.restart()
        return means | timing
