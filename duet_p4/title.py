"""What `ps` and `top` show a process as."""

from __future__ import annotations

import ctypes
from pathlib import Path

_PR_SET_NAME = 15
_ARG_START, _ARG_END = 47, 48
"""Places in /proc/self/stat, from 0."""

_libc = ctypes.CDLL(None, use_errno=True)


def set_title(name: str, words: list[str]) -> None:
    """Be shown as `name` (15 bytes of it) by top, and as the command line `words` by ps.

    There is as much room for the words as the process's own command line took; the rest is cut off.
    """
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    # The name is in parentheses, and may have spaces in it.
    after = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = (int(after[place - 2]) for place in (_ARG_START, _ARG_END))
    if 0 < start < end:
        text = "\0".join(words).encode()[: end - start - 1]
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
