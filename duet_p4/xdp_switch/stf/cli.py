"""`duet p4 stf`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import click

from duet_p4 import results
from duet_p4.xdp_switch.stf import suite
from duet_p4.xdp_switch.stf.suite import Outcome, SuiteError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(["xdp", "bmv2"]), default="xdp", show_default=True)
@click.option("--only", default="", metavar="TEXT", help="Only tests with this in their names.")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Tests at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def stf(folder: Path, target: str, only: str, jobs: int, as_json: bool) -> None:
    """Run the STF tests in FOLDER on the xdp switch, or on BMv2.

    A test is NAME.stf beside NAME.p4, which p4c-bm2-ss on PATH compiles where build/ has no NAME.json and
    NAME.p4info.txtpb of it. On xdp, packets go through the program by test runs of the kernel, without
    ports; that needs root. BMv2 is simple_switch_grpc and simple_switch_CLI on PATH. The exit code is 1
    where a test failed; refused programs name the construct.
    """
    if target == "xdp" and os.geteuid() != 0:
        raise click.ClickException("loading programs into the kernel needs root: run it with sudo")
    try:
        tests = suite.tests(folder, only)
    except SuiteError as error:
        raise click.ClickException(str(error)) from error
    verdicts = []
    with ProcessPoolExecutor(jobs) as pool:
        for verdict in pool.map(partial(suite.run, target=target), tests):
            verdicts.append(verdict)
            print(
                f"{verdict.outcome:8} {verdict.test}  {verdict.reason}".rstrip(), file=sys.stderr, flush=True
            )
    counts = Counter(verdict.outcome for verdict in verdicts)
    summary = {outcome.value: counts[outcome] for outcome in Outcome}
    if as_json:
        reasons = {v.test: v.reason for v in verdicts if v.outcome is not Outcome.PASSED}
        click.echo(results.to_json({**summary, "reasons": reasons}))
    else:
        click.echo(", ".join(f"{count} {outcome}" for outcome, count in summary.items()))
    if counts[Outcome.FAILED]:
        sys.exit(1)
