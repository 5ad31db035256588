"""The tables of the study of long runs; the study itself runs in CI."""

from manet_jax.studies import long_run

MEMORY = "memory (MB)"


def test_describe_gives_medians_of_both_ends_the_most_and_the_slope():
    rows = [{"step": step, MEMORY: 500 + 0.02 * step} for step in range(0, 1000, 50)]  # 20 of them: a tenth are 2
    (line,) = long_run.describe(rows)
    assert line == f"| {MEMORY} | 500.5 | 518.5 | 519.0 | +20.00 |"


def test_over_steps_gives_the_median_of_each_tenth_that_was_sampled():
    rows = [{"step": step, MEMORY: value} for step, value in [(1, 400.0), (9, 410.0), (10, 450.0), (11, 500.0)]]
    rows.append({"step": 100, "step (ms)": 3.0})  # of the log, not of the process
    assert long_run.over_steps(rows, 100) == ["| 10 | 410.0 |", "| 20 | 500.0 |"]
