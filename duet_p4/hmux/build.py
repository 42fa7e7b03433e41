"""Compiles P4 programs with p4c: `python -m duet_p4.hmux.build SOURCE...`, or `make p4`.

p4c is in no package registry, so its output is committed, in `build/` beside the source, with a digest of
the sources it came from.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COMPILER = "p4c-bm2-ss"


def outputs(source: Path) -> tuple[Path, Path, Path]:
    """Return where a program's device config (BMv2 JSON), P4Info and digest of sources are."""
    stem = source.parent / "build" / source.stem
    return stem.with_suffix(".json"), stem.with_suffix(".p4info.txtpb"), stem.with_suffix(".sha256")


def digest(source: Path, folders: Sequence[str] = ("include",)) -> str:
    """Return the SHA-256 of a program and of what it may include, by folder, names and contents."""
    sha = hashlib.sha256()
    included = [path for folder in folders for path in sorted((source.parent / folder).glob("*.p4"))]
    for path in [source, *included]:
        sha.update(path.relative_to(source.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def compile_p4(source: Path) -> None:
    """Compile a v1model program. p4c writes the paths down as given, so give relative ones.

    Raises FileNotFoundError where p4c or the source is not there, and CalledProcessError where p4c
    finds an error or a warning.
    """
    if shutil.which(COMPILER) is None:
        raise FileNotFoundError(
            f"{COMPILER} is not on PATH: get p4c from https://github.com/p4lang/p4c, "
            "or use its committed output"
        )
    device_config, p4info, digest_file = outputs(source)
    device_config.parent.mkdir(exist_ok=True)
    subprocess.run(
        [
            *(COMPILER, "--std", "p4-16", "--Werror"),
            *("--p4runtime-files", str(p4info), "-o", str(device_config), str(source)),
        ],
        check=True,
    )
    digest_file.write_text(f"{digest(source)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the programs named on the command line, each into `build/` beside it."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        for source in map(Path, arguments):
            compile_p4(source)
            print(f"compiled {source} into {outputs(source)[0]}")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
