"""What an operator does to the testbed itself stands in the controller's audit log, too."""

from __future__ import annotations

import logging

from controller.audit import Stated
from duet_p4.rest.client import RestError
from mininet_topos.testbed import agents
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.plan import Plan

logger = logging.getLogger(__name__)

_ANSWER_S = 5.0


async def note(folder: Folder, subject: str, before: Stated, after: Stated) -> None:
    """Have the controller note a change that was made; where it cannot, say so: the change stands.

    A testbed without a controller has no audit log.
    """
    if not Plan.load(folder).controller:
        return
    try:
        async with agents.controller(folder, timeout_s=_ANSWER_S) as controller:
            await controller.note(subject, before, after)
    except (OSError, RestError) as error:
        logger.warning("the audit log has nothing of %s: %s", subject, error)
