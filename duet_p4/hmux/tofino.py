"""Compiles hmux_tna.p4 for Tofino with p4c-barefoot, and reads what that says of the chip's resources.

p4c-barefoot is built from p4c's `backends/tofino`; it is in no package registry, so what it makes of the
program is committed in `p4src/build/tofino1` and `tofino2`: P4Info, BF Runtime schema, `resources.json`,
what its report says of each stage, and `flow_hash.bfa`, the assembly that the flow hashes have become.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from finsy import P4Schema

from duet_p4 import p4c
from duet_p4.hmux.pipeline import P4_SOURCES
from duet_p4.p4c import CompileError

COMPILER: Final = "p4c-barefoot"
SOURCE: Final = P4_SOURCES / "hmux_tna.p4"

CHIPS: Final = {"tofino1": ("tofino", "tna"), "tofino2": ("tofino2", "t2na")}
"""Generations of Tofino: the compiler's target and architecture for each."""

P4INFO: Final = "hmux_tna.p4info.txtpb"
SCHEMA: Final = "bf-rt.json"
RESOURCES: Final = "resources.json"
FLOW_HASH: Final = "flow_hash.bfa"

_HASHING: Final = re.compile(r"p4: \{ name: HmuxIngress\.flow_hash\.")
"""What marks a table that makes a flow hash."""
_HASHED: Final = re.compile(
    r"  (meta\.(flow\w*(\.[a-z]\w*)?|tip_hash|underlay_(seed|hash))|flow_hash_\w+)(\.\d+-\d+)?: "
)
"""What marks the place of a field that a flow hash is made of, or of a part of one."""


_UNCONVERTED: Final = "warning: No known conversion to standard P4Info for 'DynHash' extern type\n"
"""Hash units are not for the control plane."""


@dataclass(frozen=True)
class Stage:
    """What a match-action stage holds: blocks, units and instructions in use."""

    number: int
    sram: int
    tcam: int
    hash_bits: int
    vliw: int
    map_ram: int
    gateways: int
    logical_tables: int
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Resources:
    """What a compiled program takes of a pipe, as the compiler reports it."""

    chip: str
    stages: int
    """Stages in use; more than there are where the program does not fit."""
    stages_available: int
    sram: int
    """SRAM blocks (128 kbit) in use."""
    sram_available: int
    tcam: int
    """TCAM blocks (512 entries of 44 bits) in use."""
    tcam_available: int
    phv: int
    """Bits of packet header vector in use."""
    phv_available: int
    parser_states: int
    """Rows of the ingress and egress parsers' TCAMs in use."""
    per_stage: tuple[Stage, ...]

    @property
    def excess(self) -> int:
        """How many stages it takes beyond those that there are; 0 where it fits."""
        return max(0, self.stages - self.stages_available)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a committed report."""
        fields = json.loads(path.read_text())
        stages = [Stage(**{**stage, "tables": tuple(stage["tables"])}) for stage in fields.pop("per_stage")]
        return cls(**fields, per_stage=tuple(stages))

    def save(self, path: Path) -> None:
        """Write a report to be committed."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def outputs(chip: str) -> Path:
    """Return the folder of what the compiler made for a chip of `CHIPS`."""
    return P4_SOURCES / "build" / chip


def resources(chip: str) -> Resources:
    """Return the committed report for a chip of `CHIPS`."""
    return Resources.load(outputs(chip) / RESOURCES)


def schema(chip: str) -> P4Schema:
    """Return the tables, actions and counters for a chip of `CHIPS`, as P4Info has them."""
    return P4Schema(outputs(chip) / P4INFO)


def digest() -> str:
    """Return the SHA-256 of the Tofino program and of what it includes, names and contents."""
    return p4c.digest(SOURCE, ("include", "tna"))


def compile_for(chip: str, sources_folder: Path = P4_SOURCES) -> tuple[Resources, Path]:
    """Compile for a chip, in a temporary folder that is returned beside the report; the caller removes it.

    The report may have more stages than the chip: then the program does not fit. Raises FileNotFoundError
    where the compiler is not on PATH, and CompileError where it finds an error or a warning.
    """
    if shutil.which(COMPILER) is None:
        raise FileNotFoundError(
            f"{COMPILER} is not on PATH: build it from p4c's backends/tofino (docs/tofino.md)"
        )
    target, architecture = CHIPS[chip]
    folder = Path(tempfile.mkdtemp(prefix=f"hmux-{chip}-"))
    command = [
        *(COMPILER, "--std", "p4-16", "--target", target, "--arch", architecture, "-g"),
        "--Wdisable=unknown",  # Of `controller_header`, which is for P4Info.
        "--p4runtime-force-std-externs",  # Else only the SDE's own tools understand its counters.
        *("-o", str(folder / "out"), "--p4runtime-files", str(folder / P4INFO)),
        *("--bf-rt-schema", str(folder / SCHEMA)),
        f"{sources_folder.name}/{SOURCE.name}",
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=sources_folder.parent, check=False)
    said = run.stdout + run.stderr
    if run.returncode or "warning:" in said.replace(_UNCONVERTED, ""):
        shutil.rmtree(folder)
        raise CompileError(said)
    return _report(chip, folder), folder


def tried(chip: str, sources_folder: Path = P4_SOURCES) -> Resources:
    """Compile for a chip and keep nothing but the report. Raises as `compile_for` does."""
    report, made = compile_for(chip, sources_folder)
    shutil.rmtree(made)
    return report


def build(chip: str) -> Resources:
    """Compile for a chip and put what the compiler made where it is committed.

    Raises as `compile_for` does.
    """
    report, made = compile_for(chip)
    folder = outputs(chip)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (P4INFO, SCHEMA):
        shutil.copy(made / name, folder / name)
    report.save(folder / RESOURCES)
    (folder / FLOW_HASH).write_text(flow_hash(next(made.glob("**/*.bfa")).read_text()))
    (folder / "hmux_tna.sha256").write_text(f"{digest()}\n")
    shutil.rmtree(made)
    return report


def flow_hash(assembly: str) -> str:
    """Return what of a program's assembly makes the flow hashes: places of fields, and tables by stage."""
    kept: list[str] = []
    phv = assembly[assembly.index("phv ingress:\n") :]
    kept += [line for line in phv[: phv.index("  context_json:")].splitlines() if _HASHED.match(line)]
    for stage in re.split(r"^(?=stage \d+ ingress:)", assembly, flags=re.MULTILINE)[1:]:
        heading = stage.splitlines()[0]
        # Until the next part of the file, which is not indented.
        body = re.match(r"(?:[ \t].*\n|\n)*", stage[len(heading) + 1 :])
        tables = re.split(r"^(?=  \w+ [\w$.-]+(?: \d+)?:$)", body[0] if body else "", flags=re.MULTILINE)
        names = {_name(table) for table in tables if _HASHING.search(table)}
        hashing = [table.rstrip() for table in tables if _name(table) in names]
        kept += [heading, *hashing] if hashing else []
    return "\n".join(kept) + "\n"


def _name(table: str) -> str:
    """Return the name of a table of the assembly; a ternary one has a second half."""
    match = re.match(r"  \w+ ([\w.-]+)", table)
    return match[1] if match else ""


def _report(chip: str, folder: Path) -> Resources:
    report = json.loads(next(folder.glob("**/resources.json")).read_text())["resources"]
    stages = [_stage(stage) for stage in report["mau"]["mau_stages"]]
    first = report["mau"]["mau_stages"][0]
    available = report["mau"]["nStages"]
    phv, phv_available = _phv(json.loads(next(folder.glob("**/phv.json")).read_text()))
    return Resources(
        chip=chip,
        stages=1 + max(stage.number for stage in stages if stage.logical_tables),
        stages_available=available,
        sram=sum(stage.sram for stage in stages),
        sram_available=available * first["rams"]["nRows"] * first["rams"]["nColumns"],
        tcam=sum(stage.tcam for stage in stages),
        tcam_available=available * first["tcams"]["nRows"] * first["tcams"]["nColumns"],
        phv=phv,
        phv_available=phv_available,
        parser_states=sum(len(parser["states"]) for parser in report["parser"]["parsers"]),
        per_stage=tuple(stages),
    )


def _stage(stage: dict[str, Any]) -> Stage:
    tables = sorted({one["table_name"] for one in stage["logical_tables"]["ids"]})
    return Stage(
        number=stage["stage_number"],
        sram=len(stage["rams"]["srams"]),
        tcam=len(stage["tcams"]["tcams"]),
        hash_bits=len(stage["hash_bits"]["bits"]),
        vliw=len(stage["vliw"]["instructions"]),
        map_ram=len(stage["map_rams"]["maprams"]),
        gateways=len(stage["gateways"]["gateways"]),
        logical_tables=len(stage["logical_tables"]["ids"]),
        tables=tuple(tables),
    )


def _phv(report: dict[str, Any]) -> tuple[int, int]:
    """Return the bits of containers in use by tables, and all there are."""
    used = 0
    for container in report["containers"]:
        bits: set[int] = set()
        for held in container["slices"]:
            bits.update(range(held["slice_info"]["lsb"], held["slice_info"]["msb"] + 1))
        used += len(bits)
    groups = [group for group in report["resources"] if group["group_type"] == "mau"]
    return used, sum(group["num_containers"] * group["bit_width"] for group in groups)
