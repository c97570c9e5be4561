"""PreparedTable: what was prepared, by the stem under which a VM is looked up. No I/O."""

from __future__ import annotations

from collections import OrderedDict

from vmw_cloudinit_metadata.drivers.preparedrecords import Place

_LINE_BYTES = 350  # a line's place in the table, beside its bytes; or the place where it is kept
_MARK_BYTES = 200  # a stem without a line


class PreparedTable:
    """Knows every stem that there is data for: a stem without a line is not prepared.

    If there is no room for the stems, nothing is known.
    """

    def __init__(self) -> None:
        self.limit_bytes = 0
        self._lines: OrderedDict[str, bytes | Place] = OrderedDict()
        self._marks: set[str] = set()
        self._line_bytes = 0
        self.is_complete = True

    @property
    def kept_bytes(self) -> int:
        return self._line_bytes + len(self._lines) * _LINE_BYTES + len(self._marks) * _MARK_BYTES

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, stem: str) -> bool:
        return stem in self._lines or stem in self._marks

    def get(self, stem: str) -> bytes | None:
        line = self._lines.get(stem)
        return line if line is None or isinstance(line, bytes) else line.read()

    def put(self, stem: str, line: bytes | Place | None) -> None:
        """Keep a line while there is room; without one, note that there is data."""
        self.drop(stem)
        if not self.is_complete:
            return
        if line and self.kept_bytes + _bytes_of(line) + _LINE_BYTES <= self.limit_bytes:
            self._lines[stem] = line
            self._line_bytes += _bytes_of(line)
        else:
            self._mark(stem)

    def _mark(self, stem: str) -> None:
        self._marks.add(stem)
        while self.kept_bytes > self.limit_bytes and self.shed():
            pass
        if self.kept_bytes > self.limit_bytes:
            self.clear()
            self.is_complete = False

    def drop(self, stem: str) -> None:
        self._marks.discard(stem)
        line = self._lines.pop(stem, None)
        if line:
            self._line_bytes -= _bytes_of(line)

    def shed(self) -> bool:
        """Drop the line that was put first, and remember its stem."""
        if not self._lines:
            return False
        stem, line = self._lines.popitem(last=False)
        self._line_bytes -= _bytes_of(line)
        self._marks.add(stem)
        return True

    def clear(self) -> None:
        self._lines.clear()
        self._marks.clear()
        self._line_bytes = 0
        self.is_complete = True


def _bytes_of(line: bytes | Place) -> int:
    return len(line) if isinstance(line, bytes) else 0
