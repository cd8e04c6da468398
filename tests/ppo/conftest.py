"""The bench of agents."""

from tests.learner_bench import bench

__all__ = ["bench"]
