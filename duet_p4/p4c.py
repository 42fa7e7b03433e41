"""Compiles v1model programs with p4c: `python -m duet_p4.p4c SOURCE...`, or `make p4`.

p4c is in no package registry, so its output for our programs is committed, in `build/` beside the source,
with a digest of the sources it came from.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

COMPILER: Final = "p4c-bm2-ss"
_TIMEOUT_S = 300


class CompileError(Exception):
    """A compiler refused a program; the text is what it said."""


def compile_p4(source: Path, config: Path, p4info: Path | None = None, *options: str) -> None:
    """Compile a program into a device config (BMv2 JSON) and, where asked for, a P4Info.

    p4c writes the source's path down as given. Raises FileNotFoundError where p4c is not on PATH, and
    CompileError where it refuses the program.
    """
    if shutil.which(COMPILER) is None:
        raise FileNotFoundError(f"{COMPILER} is not on PATH: get p4c from https://github.com/p4lang/p4c")
    command = [COMPILER, *options, "-o", str(config)]
    if p4info is not None:
        command += ["--p4runtime-files", str(p4info)]
    done = subprocess.run(
        [*command, str(source)], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode or not config.exists():
        raise CompileError(done.stderr.strip() or f"{COMPILER} ended with status {done.returncode}")


def outputs(source: Path) -> tuple[Path, Path, Path]:
    """Return where a program's device config (BMv2 JSON), P4Info and digest of sources are committed."""
    stem = source.parent / "build" / source.stem
    return stem.with_suffix(".json"), stem.with_suffix(".p4info.txtpb"), stem.with_suffix(".sha256")


def digest(source: Path, folders: Sequence[str] = ("include",)) -> str:
    """Return the SHA-256 of a program and of what it may include, by folder, names and contents."""
    sha = hashlib.sha256()
    included = [path for folder in folders for path in sorted((source.parent / folder).glob("*.p4"))]
    for path in [source, *included]:
        sha.update(path.relative_to(source.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def build(source: Path) -> None:
    """Compile a program to where its output is committed; a warning is an error. Give a relative path.

    Raises as `compile_p4` does.
    """
    config, p4info, digest_file = outputs(source)
    config.parent.mkdir(exist_ok=True)
    compile_p4(source, config, p4info, "--std", "p4-16", "--Werror")
    digest_file.write_text(f"{digest(source)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the programs named on the command line, each into `build/` beside it."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        for source in map(Path, arguments):
            build(source)
            print(f"compiled {source} into {outputs(source)[0]}")
    except (FileNotFoundError, CompileError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
