"""`duet p4 resources`, and `make p4 TARGET=tofino`: `python -m duet_p4.hmux.cli`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from duet_p4 import results
from duet_p4.hmux import tofino
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def resources(again: bool, as_json: bool) -> None:
    """What hmux_tna.p4 takes of a Tofino, stage by stage.

    Prints the compiler's report that is committed; with --compile, p4c-barefoot on PATH makes it anew, with
    P4Info, BF Runtime schema and drawing.
    """
    try:
        reports = [tofino.build(chip) if again else tofino.resources(chip) for chip in tofino.CHIPS]
    except (CompileError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    if again:
        draw(reports, P4_SOURCES / "build")
    if as_json:
        click.echo(results.to_json({report.chip: asdict(report) for report in reports}))
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
