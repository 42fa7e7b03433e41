"""Where in the packet a parser state stands, as C has it."""

from __future__ import annotations


class Cursor:
    """The parser's cursor within one state: a known offset, or a C variable plus bytes since."""

    def __init__(self, offset: int | None) -> None:
        self.offset = offset
        self._since = 0
        self._reloads = 0

    @property
    def code(self) -> str:
        """The C expression for the cursor."""
        if self.offset is not None:
            return str(self.offset)
        return f"at{self._reloads} + {self._since}" if self._since else f"at{self._reloads}"

    @property
    def pointer(self) -> str:
        """The C expression for the packet's bytes at the cursor."""
        if self.offset is not None:
            return f"data + {self.offset}"
        return f"here{self._reloads} + {self._since}" if self._since else f"here{self._reloads}"

    def declare(self, value: str) -> list[str]:
        """Return C that loads the cursor's variable, bounded so that the verifier accepts it."""
        name = f"at{self._reloads}"
        return [
            f"__u32 {name} = {value} & 0x3fff;",
            f"__u8 *here{self._reloads} = data + {name};",
            f"HIDE(here{self._reloads});",
        ]

    def move(self, count: int) -> None:
        """Go `count` bytes on."""
        if self.offset is not None:
            self.offset += count
        else:
            self._since += count

    def reload(self) -> None:
        """Go on from another variable, to be declared."""
        self._reloads += 1
        self.offset, self._since = None, 0
