"""A cluster of several nodes on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Nodes on one machine need no token, and no usage report may leave it.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A head and two workers of one CPU each. The driver is on the head."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "resources": {"head": 1}}
    found = Cluster(initialize_head=True, head_node_args=head)
    found.workers = [found.add_node(num_cpus=1, resources={"worker": 1}) for _ in range(2)]
    ray.init(address=found.address, log_to_driver=False)
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()
