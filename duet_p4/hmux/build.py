"""Compiles hmux.p4 with p4c: `python -m duet_p4.hmux.build`, or `make p4`.

p4c is in no package registry, so its output is committed beside a digest of the sources it came from.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from duet_p4.hmux.pipeline import DEVICE_CONFIG, P4_SOURCES, P4INFO

COMPILER = "p4c-bm2-ss"
DIGEST = P4_SOURCES / "build" / "sources.sha256"


def sources() -> list[Path]:
    """Return every P4 source of the HMux."""
    return [P4_SOURCES / "hmux.p4", *sorted((P4_SOURCES / "include").glob("*.p4"))]


def digest() -> str:
    """Return the SHA-256 of the P4 sources, names included."""
    sha = hashlib.sha256()
    for path in sources():
        sha.update(path.relative_to(P4_SOURCES).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def compile_p4(source: Path, device_config: Path, p4info: Path) -> None:
    """Compile a v1model program; paths are relative to the working directory, as p4c writes them down.

    Raises FileNotFoundError where p4c is not on PATH, and CalledProcessError where it finds an error
    or a warning.
    """
    if shutil.which(COMPILER) is None:
        raise FileNotFoundError(
            f"{COMPILER} is not on PATH; get p4c from https://github.com/p4lang/p4c, or use the committed "
            f"output in {device_config.parent}"
        )
    subprocess.run(
        [
            *(COMPILER, "--std", "p4-16", "--Werror"),
            *("--p4runtime-files", str(p4info), "-o", str(device_config), str(source)),
        ],
        check=True,
    )


def main() -> int:
    """Compile hmux.p4 and write down the digest of its sources."""
    root = P4_SOURCES.parent
    if Path.cwd() != root:
        print(f"run this in {root}: p4c writes relative paths into its output", file=sys.stderr)
        return 2
    DIGEST.parent.mkdir(exist_ok=True)
    try:
        compile_p4(*(path.relative_to(root) for path in (P4_SOURCES / "hmux.p4", DEVICE_CONFIG, P4INFO)))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    DIGEST.write_text(f"{digest()}\n")
    print(f"compiled {len(sources())} sources into {DEVICE_CONFIG.relative_to(root)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
