"""Equality of the networks with the recorded outputs of their PyTorch references, at full size."""

import pytest
import zoo

# Of these not two at once (--dist loadgroup): each takes up to 13 GB.
LARGE = ("timesformer", "videomae_b", "uniformer_s", "uniformer_b", "swin_tiny", "swin_small", "swin_base")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.xdist_group("large")] if name in LARGE else []) for name in zoo.NETWORKS],
)
def test_network_is_its_reference(name):
    # One test a network: its one run takes seconds.
    measured = zoo.measure(name)
    assert len(measured) >= 10
    assert not [each for each in measured if not each.difference <= each.tolerance]
