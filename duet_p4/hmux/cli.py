"""`duet p4 resources`, and `make p4 TARGET=tofino`: `python -m duet_p4.hmux.cli`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from duet_p4 import results
from duet_p4.hmux import tofino, tofino_sizes
from duet_p4.hmux.pipeline import P4_SOURCES
from duet_p4.hmux.tofino import Resources
from duet_p4.p4c import CompileError

DRAWING: Final = "resources"
"""The stem of the drawing's file names; SVG and PNG."""

_ROWS: Final = (
    ("sram", "SRAM blocks"),
    ("tcam", "TCAM blocks"),
    ("hash_bits", "hash bits"),
    ("vliw", "instructions"),
    ("logical_tables", "tables"),
)


@click.command()
@click.option("--compile", "again", is_flag=True, help="Compile again and write p4src/build.")
@click.option(
    "--try",
    "chip",
    type=click.Choice(list(tofino.CHIPS)),
    help="Compile p4src as it is now for one chip, and write nothing.",
)
@click.option(
    "--largest",
    "table",
    type=click.Choice(tofino_sizes.TABLES),
    help="Compile with ever more entries of a table, until they no longer fit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def resources(again: bool, chip: str | None, table: str | None, as_json: bool) -> None:
    """What hmux_tna.p4 takes of a Tofino, stage by stage.

    Prints the compiler's report that is committed; with --compile, p4c-barefoot on PATH makes it anew, with
    P4Info, BF Runtime schema and drawing. With --try it says what the sources that you are at work on take.
    """
    if sum(map(bool, (again, chip, table))) > 1:
        raise click.UsageError("--compile, --try and --largest exclude each other")
    try:
        if table:
            for one in tofino.CHIPS:
                _grow(one, table)
        if chip:
            reports = [tofino.tried(chip)]
        else:
            reports = [tofino.build(one) if again else tofino.resources(one) for one in tofino.CHIPS]
    except (CompileError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    if again:
        draw(reports, P4_SOURCES / "build")
    largest = {report.chip: _largest(report) for report in reports}
    if as_json:
        click.echo(results.to_json({r.chip: asdict(r) | {"largest": largest[r.chip]} for r in reports}))
        return
    for report in reports:
        click.echo(
            f"{report.chip}: {report.stages} of {report.stages_available} stages"
            f"{' (does not fit)' if report.excess else ''}, "
            f"SRAM {report.sram} of {report.sram_available} blocks, "
            f"TCAM {report.tcam} of {report.tcam_available} blocks, "
            f"PHV {report.phv} of {report.phv_available} bits"
        )
        for stage in report.per_stage:
            counts = ", ".join(f"{getattr(stage, field)} {name}" for field, name in _ROWS)
            click.echo(f"  stage {stage.number:2}: {counts}")
        for name, (fits, too_many) in largest[report.chip].items():
            limit = f"{too_many:,} do not" if too_many else "more were not tried"
            click.echo(f"  {name}: {fits:,} entries fit, {limit}")


def _grow(chip: str, table: str) -> None:
    """Search for the largest size of a table, and say after each compilation what is known."""
    for sizes in tofino_sizes.search(chip, table, tofino_sizes.stages_with):
        size = list(sizes)[-1]
        stages = sizes[size]
        click.echo(
            f"{chip}, {table} of {size:,}: {'no way to place it' if stages is None else f'{stages} stages'}"
        )


def _largest(report: Resources) -> dict[str, tuple[int, int | None]]:
    """Return, by table, the largest size that fits, and the least above it that does not."""
    return {
        table: tofino_sizes.bounds(sizes, report.stages_available)
        for table, sizes in tofino_sizes.tried(report.chip).items()
    }


def draw(reports: list[Resources], folder: Path) -> None:
    """Draw what each stage holds, a column of panels for each chip, as SVG and PNG into `folder`."""
    size = (4 * len(reports), 1.4 * len(_ROWS))
    figure, axes = results.figure(
        len(_ROWS), len(reports), figsize=size, sharex="col", sharey="row", squeeze=False
    )
    for column, report in enumerate(reports):
        numbers = [stage.number for stage in report.per_stage]
        for row, (field, name) in enumerate(_ROWS):
            values = [getattr(stage, field) for stage in report.per_stage]
            within = [results.OURS if n < report.stages_available else results.PAPER for n in numbers]
            axes[row][column].bar(numbers, values, color=within)
            if column == 0:
                axes[row][column].set_ylabel(name)
        axes[0][column].set_title(f"{report.chip}: {report.stages} of {report.stages_available} stages")
        axes[-1][column].set_xlabel("stage (red: more than there are)" if report.excess else "stage")
        axes[-1][column].xaxis.get_major_locator().set_params(integer=True)
    results.save_figure(figure, folder / DRAWING)


if __name__ == "__main__":
    resources()
