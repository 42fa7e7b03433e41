"""The simulation cut into independent tasks: each computes one result from a set-up and its own few
fields.
"""

from controller.simulation.tasks.base import Task
from controller.simulation.tasks.consistency import Keep
from controller.simulation.tasks.latency import Latency
from controller.simulation.tasks.links import LinkLoads
from controller.simulation.tasks.migration import Follow, Followed, Moment
from controller.simulation.tasks.place import Ananta, Limit, Limits, Place, Placed
from controller.simulation.tasks.rubik import LINKS, Carried, Carry
from controller.simulation.tasks.strategies import strategy
from controller.simulation.tasks.trace import Describe, Traced

__all__ = [
    "LINKS",
    "Ananta",
    "Carried",
    "Carry",
    "Describe",
    "Follow",
    "Followed",
    "Keep",
    "Latency",
    "Limit",
    "Limits",
    "LinkLoads",
    "Moment",
    "Place",
    "Placed",
    "Task",
    "Traced",
    "strategy",
]
