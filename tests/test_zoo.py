"""Equality of the networks with the recorded outputs of their PyTorch references, at full size."""

import pytest
import zoo


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_network_is_its_reference(name):
    # One test a network: its one run takes seconds.
    measured = zoo.measure(name)
    assert len(measured) >= 10
    assert not [each for each in measured if not each.difference <= each.tolerance]
