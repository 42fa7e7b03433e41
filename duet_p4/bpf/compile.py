"""Object files of eBPF C: shipped with the package, or compiled with clang, once per content.

Set-up compiles what the project itself loads (`mininet_topos.shipped`), so that no process of a testbed has
to. What is not shipped, because somebody changed a program or brought one, is compiled where it is needed, by
clang without root's rights.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from duet_p4.bpf.errors import BpfError

logger = logging.getLogger(__name__)

INCLUDE = Path(__file__).parent / "include"
"""Headers shared by every eBPF program of the project; always on the include path."""

SHIPPED = Path(__file__).parent / "objects"
"""Objects that set-up compiled; a wheel brings them along."""

CLONE = Path(__file__).resolve().parents[2]
"""The clone; in an installation of a wheel, where its packages are."""

_NOBODY = 65534
_FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror", "-Wno-unused-function")
_LOCAL_INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def _cache() -> Path:
    if (CLONE / "pyproject.toml").exists():
        return CLONE / "build" / "bpf"
    if os.geteuid() == 0:
        return Path("/var/cache/duet-p4/bpf")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duet-p4" / "bpf"


OBJECTS = _cache()
"""Where objects that are not shipped are kept; it need not exist yet."""


def compile_object(
    source: Path, include: Sequence[Path] = (), defines: Mapping[str, str] | None = None
) -> Path:
    """Return the path of the object file of `source`: the one that is shipped, or one compiled now.

    Objects are found by the content of the source and of every header it includes by `#include "..."`, the
    defines, the flags and the byte order; those that are not shipped also by the compiler.
    Raises BpfError with the compiler's messages, or where clang is wanted and missing.
    """
    defines = defines or {}
    folders = [source.parent, *include, INCLUDE]
    content = _digest(source, folders, defines)
    shipped = SHIPPED / f"{source.stem}-{content}.o"
    if shipped.exists():
        return shipped
    if shutil.which("clang") is None and shutil.which("clang-14") is None:
        raise BpfError(
            f"no object of {source.name} as it is comes with this installation, and clang is not on PATH to "
            "compile it: install it (Debian, Ubuntu: apt-get install clang libbpf-dev)"
        )
    kept = OBJECTS / f"{source.stem}-{content}-{hashlib.sha256(repr(compiler()).encode()).hexdigest()[:8]}.o"
    if kept.exists():
        return kept
    _make_folder(OBJECTS)
    with (OBJECTS / "lock").open("w") as lock:
        _give_to_owner(OBJECTS / "lock")
        # Ten switches that start together want the same object: one compiles, the others wait for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            logger.info("compiling %s, of which no object is shipped", source.name)
            compile_to(kept, source, include, defines)
    return kept


def ship(source: Path, include: Sequence[Path] = (), defines: Mapping[str, str] | None = None) -> Path:
    """Compile `source` as part of the package, unless that was done; raises as `compile_object`."""
    defines = defines or {}
    shipped = SHIPPED / f"{source.stem}-{_digest(source, [source.parent, *include, INCLUDE], defines)}.o"
    if not shipped.exists():
        _make_folder(SHIPPED)
        compile_to(shipped, source, include, defines)
    return shipped


def compile_to(target: Path, source: Path, include: Sequence[Path], defines: Mapping[str, str]) -> None:
    """Compile `source` to the file `target`, which is there as a whole or not at all.

    The compiler reads the source from its input and writes the object to its output: whom it runs as needs
    no right to either file.
    """
    folders = [source.parent, *include, INCLUDE]
    headers = [path for path in _closure(source, folders) if path != source]
    # A folder that the compiler may not look into would end its work.
    folders = [folder for folder in folders if any(path.is_relative_to(folder) for path in headers)]
    command = [
        *_unprivileged(headers),
        compiler()[0],
        *_FLAGS,
        *(f"-D{name}={value}" for name, value in sorted(defines.items())),
        *(f"-I{folder}" for folder in (*folders, *_system_folders())),
        *("-x", "c", "-c", "-o", "-", "-"),
    ]
    text = f'# 1 "{source}"\n'.encode() + source.read_bytes()
    result = subprocess.run(command, input=text, capture_output=True, check=False, cwd="/")
    if result.returncode:
        raise BpfError(f"clang cannot compile {source}:\n{result.stderr.decode(errors='replace').strip()}")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.stem, suffix=".tmp")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(result.stdout)
        partial.chmod(0o644)
        _give_to_owner(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _unprivileged(headers: Sequence[Path]) -> list[str]:
    """Return what starts a program without root's rights, where this process has them.

    It becomes the owner of the clone, or nobody. Where that user could not read the headers, since they are
    in a folder of root's own, it stays root, without any capability.
    """
    if os.geteuid() != 0:
        return []
    owner = CLONE.stat()
    user, group = (owner.st_uid, owner.st_gid) if owner.st_uid else (_NOBODY, _NOBODY)
    setpriv = ["setpriv", "--no-new-privs", "--inh-caps=-all"]
    if all(may_read(path, user) for path in headers):
        return [*setpriv, f"--reuid={user}", f"--regid={group}", "--clear-groups", "--"]
    return [*setpriv, "--bounding-set=-all", "--"]


def may_read(path: Path, user: int) -> bool:
    """Say whether a user, who is not root, may read a file or folder, by the modes of the way to it."""

    def allowed(part: Path, wanted: int) -> bool:
        status = part.stat()
        return status.st_mode >> (6 if status.st_uid == user else 0) & wanted == wanted

    return allowed(path, 4) and all(allowed(part, 1) for part in path.resolve().parents)


def _make_folder(folder: Path) -> None:
    """Make a folder below the clone; what is missing above it, too."""
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            path.mkdir(exist_ok=True)
            _give_to_owner(path)


def _give_to_owner(path: Path) -> None:
    """Have what root makes belong to the owner of the clone, who may then compile there and remove it."""
    if os.geteuid() == 0 and path.is_relative_to(CLONE):
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


def _digest(source: Path, folders: Sequence[Path], defines: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr((_FLAGS, sys.byteorder, sorted(defines.items()))).encode())
    for path in _closure(source, folders):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


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
