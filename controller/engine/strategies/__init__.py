"""The strategies that come with the engine, a family per module."""

from controller.engine.strategies.balanced import Balanced
from controller.engine.strategies.baselines import AllSMux, Random
from controller.engine.strategies.greedy import Greedy, OneTime, Sticky

__all__ = ["AllSMux", "Balanced", "Greedy", "OneTime", "Random", "Sticky"]
