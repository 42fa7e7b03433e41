"""A bar that shows how far something is, where people look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from controller.cli.session import Session


class Tell(Protocol):
    """Is told how much is done, and of how much if that was not known before."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Take note of it."""


def _quiet(done: int, total: int | None = None) -> None:
    """Show nothing."""


@contextmanager
def bar(session: Session, what: str, total: int | None = None) -> Iterator[Tell]:
    """Show a bar while the context lasts, which moves by what it yields."""
    console = Console(stderr=True)
    if total == 0 or session.as_json or not console.is_terminal:
        yield _quiet
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)

        def tell(done: int, total: int | None = None) -> None:
            progress.update(task, completed=done, total=total)

        yield tell
