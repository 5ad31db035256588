"""Progress bars in a terminal and into a file."""

import io
import sys
import time

import pytest

from manet_jax import progress


@pytest.mark.parametrize(("is_terminal", "lines"), [(True, 5), (False, 2)])
def test_bar_is_drawn_into_a_file_at_its_start_and_end_only(is_terminal, lines, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.bar(total=3, desc="training") as bar:
        for _ in range(3):
            time.sleep(0.11)
            bar.update()
        bar.set_postfix_str("loss 3.951", refresh=False)  # as training does
    assert stream.getvalue().count("training:") == lines
    assert "3/3" in stream.getvalue()
    assert "loss 3.951" in stream.getvalue()
