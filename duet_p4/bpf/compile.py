"""Compile eBPF C with clang, once per content."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from duet_p4.bpf.errors import BpfError

INCLUDE = Path(__file__).parent / "include"
"""Headers shared by every eBPF program of the project; always on the include path."""

CLONE = Path(__file__).resolve().parents[2]
OBJECTS = CLONE / "build" / "bpf"
"""Where compiled objects are kept; it need not exist yet."""

_FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror", "-Wno-unused-function")
_LOCAL_INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def compile_object(
    source: Path, include: Sequence[Path] = (), defines: Mapping[str, str] | None = None
) -> Path:
    """Compile `source` and return the path of the object file.

    Objects are kept in `OBJECTS`, by the content of the source and of every header it includes by
    `#include "..."`, the defines, the flags and the compiler.
    Raises BpfError with the compiler's messages, or where clang is missing.
    """
    defines = defines or {}
    folders = [source.parent, *include, INCLUDE]
    digest = hashlib.sha256(repr((_FLAGS, compiler(), sorted(defines.items()))).encode())
    for path in _closure(source, folders):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    kept = OBJECTS / f"{source.stem}-{digest.hexdigest()[:32]}.o"
    if kept.exists():
        return kept
    for folder in (OBJECTS.parent, OBJECTS):
        folder.mkdir(exist_ok=True)
        _give_to_owner(folder)
    with (OBJECTS / "lock").open("w") as lock:
        _give_to_owner(OBJECTS / "lock")
        # Ten switches that start together want the same object: one compiles, the others wait for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            _compile(source, folders, defines, kept)
    return kept


def _compile(source: Path, folders: Sequence[Path], defines: Mapping[str, str], kept: Path) -> None:
    handle, name = tempfile.mkstemp(dir=kept.parent, prefix=kept.stem, suffix=".tmp")
    os.close(handle)
    partial = Path(name)
    try:
        command = [
            compiler()[0],
            *_FLAGS,
            *(f"-D{name}={value}" for name, value in sorted(defines.items())),
            *(f"-I{folder}" for folder in (*folders, *_system_folders())),
            "-c",
            str(source),
            "-o",
            str(partial),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BpfError(f"clang cannot compile {source}:\n{result.stderr.strip()}")
        partial.chmod(0o644)
        _give_to_owner(partial)
        partial.replace(kept)
    finally:
        partial.unlink(missing_ok=True)


def _give_to_owner(path: Path) -> None:
    """Have what root makes belong to the owner of the clone, who may then compile there and remove it."""
    if os.geteuid() == 0:
        owner = CLONE.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


@cache
def compiler() -> tuple[str, str]:
    """Return the compiler's path and version line; asked once by a process and those that it forks."""
    found = next((path for name in ("clang", "clang-14") if (path := shutil.which(name))), None)
    if found is None:
        raise BpfError("clang is not on PATH: install it (Debian, Ubuntu: apt-get install clang)")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    return found, version.splitlines()[0]


def _system_folders() -> list[str]:
    """Where Debian keeps the asm/ headers of this machine: clang's bpf target does not look there."""
    triple = sysconfig.get_config_var("MULTIARCH")
    return [f"/usr/include/{triple}"] if triple else []


def _closure(source: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """Yield `source` and every header reached by quoted includes, each once, in a fixed order."""
    seen: set[Path] = set()
    pending = [source]
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        yield path
        for name in _LOCAL_INCLUDE.findall(path.read_bytes()):
            candidates = (folder / name.decode() for folder in (path.parent, *folders))
            found = next((candidate for candidate in candidates if candidate.exists()), None)
            if found is not None:
                pending.append(found)
