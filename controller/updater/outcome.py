"""What came of bringing one VIP, or many, to where they shall be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from controller.updater.plan import Step, Wave
from duet_p4.api.problems import Problem
from duet_p4.model import Model


@dataclass
class Outcome:
    """Steps done, steps refused and why, and how long each wave took (ms).

    `barred` are the steps that were not tried, each with the reason; `away` the devices that could not be
    asked; `waits` says in words what else it waits for; `error` what went wrong inside the controller.
    """

    done: list[Step] = field(default_factory=list)
    failed: list[tuple[Step, Problem]] = field(default_factory=list)
    barred: list[tuple[Step, str]] = field(default_factory=list)
    away: set[str] = field(default_factory=set)
    wave_ms: dict[Wave, float] = field(default_factory=dict)
    writes: int = 0
    waits: str = ""
    error: str = ""

    def add(self, other: Outcome) -> None:
        """Take in what was done next. What failed before and was not tried again is what failed."""
        self.done += other.done
        self.failed, self.barred, self.away = other.failed, other.barred, other.away
        self.writes += other.writes
        for wave, ms in other.wave_ms.items():
            self.wave_ms[wave] = self.wave_ms.get(wave, 0.0) + ms

    @property
    def retry(self) -> bool:
        """Whether it is worth trying again by and by: a device that is away says itself when it is back."""
        return bool(self.failed or self.barred or self.waits or self.error)

    def problems(self) -> list[str]:
        """Say what failed."""
        said = [
            f"{step.device} {step.action} {step.address}: {problem.detail}" for step, problem in self.failed
        ]
        said += [f"{step.device} {step.action} {step.address}: {why}" for step, why in self.barred]
        return [*said, *([self.waits] if self.waits else []), *([self.error] if self.error else [])]


class Report(Model):
    """What an update did: steps done and failed, table entries written, duration of each wave (ms)."""

    done: int
    failed: tuple[str, ...] = ()
    writes: int
    wave_ms: dict[str, float]

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], more: Iterable[str] = ()) -> Report:
        """Return the report of many outcomes; a wave took as long as its slowest VIP."""
        done = writes = 0
        failed: list[str] = []
        waves: dict[str, float] = {}
        for outcome in outcomes:
            done += len(outcome.done)
            writes += outcome.writes
            failed += outcome.problems()
            for wave, ms in outcome.wave_ms.items():
                waves[wave.value] = max(waves.get(wave.value, 0.0), round(ms, 3))
        return cls(done=done, failed=(*failed, *more), writes=writes, wave_ms=waves)
