"""BGP sessions as agents show them over REST."""

from __future__ import annotations

import logging

from duet_p4.api.mux import SessionStatus
from duet_p4.bird.daemon import Bird, BirdError

logger = logging.getLogger(__name__)


async def sessions(bird: Bird) -> list[SessionStatus]:
    """Return BIRD's BGP sessions; none while it does not answer."""
    try:
        found = await bird.sessions()
    except BirdError as error:
        logger.warning("%s", error)
        return []
    return [
        SessionStatus(
            name=session.neighbor.name,
            neighbor=session.neighbor.address,
            asn=session.neighbor.asn,
            established=session.established,
            state=session.info or session.state,
            since=session.since,
            bfd=session.bfd,
        )
        for session in found
    ]
