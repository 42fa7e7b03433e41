"""What a confined process cannot do must not keep it from its work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from duet_p4.confinement import landlock_version

KERNEL = """
from controller.engine.compiled import kernel

@kernel()
def twice(number):
    return 2 * number
"""
CALL = """
import sys
from importlib import import_module
from pathlib import Path
from duet_p4.confinement import Rights, confine

folder, state, *names = sys.argv[1:]
sys.path.insert(0, folder)
if state:
    confine(Rights(writable=(Path(state),)))
for name in names:
    twice = import_module(name).twice
    assert twice(4) == 8
    print(name, sum(twice.stats.cache_hits.values()))
"""

STORE = """
import asyncio, sys
from ipaddress import IPv4Address
from pathlib import Path
from controller.records import VipRecord
from controller.store.base import Batch
from controller.store.sqlite import SqliteStore
from duet_p4.confinement import Rights, confine
from duet_p4.model import Dip, MuxVip, Vip

state, number = Path(sys.argv[1]), int(sys.argv[2])
confine(Rights(writable=(state,)))

async def main():
    store = SqliteStore(state / "controller.db")
    dips = (Dip(address=IPv4Address("100.0.0.1")),)
    vips = [Vip(address=IPv4Address("10.0.0.0") + n, dips=dips) for n in range(number)]
    records = [VipRecord(spec=vip, layout=MuxVip.of(vip)) for vip in vips]
    batches = [Batch(put=[(record, 0) for record in records[n::10]]) for n in range(10)]
    await asyncio.gather(*(store.commit(batch) for batch in batches))
    print(len((await store.load()).vips))
    await store.close()

asyncio.run(main())
"""


@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
def test_who_may_not_write_uses_kernels_that_are_kept_and_compiles_the_others(tmp_path: Path) -> None:
    for name in ("kept", "new"):
        (tmp_path / f"{name}.py").write_text(KERNEL)

    def call(state: str, *names: str) -> str:
        command = [sys.executable, "-c", CALL, str(tmp_path), state, *names]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert call("", "kept") == "kept 0\n"
    assert call(str(tmp_path / "state"), "kept", "new") == "kept 1\nnew 0\n"
    assert not list((tmp_path / "__pycache__").glob("new*.nb*"))


@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
def test_a_store_whose_process_may_not_write_temporary_files_takes_a_long_transaction(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STORE, str(tmp_path), "2000"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "2000\n"), done.stderr
