"""`python -m controller`, the same as `duet controller`."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from controller.app import running
from controller.config import ControllerConfig, Module
from duet_p4 import collector, log
from duet_p4.signals import told_to_end

logger = logging.getLogger(__name__)


@click.command("controller", short_help="Run the controller, or one of its modules.")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Its configuration (JSON).",
)
@click.option("--only", type=click.Choice([module.value for module in Module]), help="Run one module alone.")
@click.option("--log-level", type=click.Choice(log.LEVELS), default="INFO", show_default=True)
def command(path: Path, only: str | None, log_level: str) -> None:
    """Run the controller until a signal ends it; a testbed runs its own.

    With --only, the configuration says under `elsewhere` where the other modules are.
    """
    log.setup("controller", log_level)
    collector.relax()
    try:
        config = ControllerConfig.from_file(path)
        if only:
            config = ControllerConfig.model_validate(config.model_dump() | {"modules": (Module(only),)})
        asyncio.run(_serve(config))
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{named}{error.strerror or error}") from error
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        command(argv, prog_name="controller")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


async def _serve(config: ControllerConfig) -> None:
    stop = told_to_end()
    async with running(config) as url:
        collector.relax()  # also with what was read from the store
        logger.info("%s at %s", ", ".join(config.modules), url)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
