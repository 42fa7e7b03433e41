"""`python -m controller --config FILE [--only MODULE]`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from controller.app import running
from controller.config import ControllerConfig, Module
from duet_p4 import log

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the controller until a signal ends it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="controller", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="configuration (JSON)")
    parser.add_argument("--only", choices=[module.value for module in Module], help="run one module alone")
    parser.add_argument("--log-level", choices=log.LEVELS, default="INFO")
    options = parser.parse_args(argv)
    log.setup("controller", options.log_level)
    try:
        config = ControllerConfig.from_file(options.config)
        if options.only:
            fields = config.model_dump() | {"modules": (Module(options.only),)}
            config = ControllerConfig.model_validate(fields)
        asyncio.run(_serve(config))
    except (OSError, ValueError) as error:
        print(f"controller: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(config: ControllerConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(config) as url:
        logger.info("%s at %s", ", ".join(config.modules), url)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
