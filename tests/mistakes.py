"""The mistakes of tests/mistakes.txt: a title, an instance file, and the messages about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vmw_cloudinit_metadata.drivers.file import FileDriver

PAGE = Path(__file__).with_name("mistakes.txt")


@dataclass(frozen=True)
class Mistake:
    title: str
    file: str
    told: list[str]


def read(page: str) -> Iterator[Mistake]:
    """`=== title`, the lines of the file (a tab as `→`), and `> ` before each message."""
    for block in page.split("\n=== ")[1:]:
        title, *lines = block.splitlines()
        messages = [line[2:] for line in lines if line.startswith("> ")]
        file = [line for line in lines if not line.startswith("> ")]
        text = "".join(f"{line}\n" for line in file).rstrip("\n") + "\n"
        yield Mistake(title, text.replace("→", "\t"), messages)


def told_of(directory: Path, name: str, content: bytes) -> list[str]:
    """Return the messages of `validate` about a file, without the file name at the start."""
    path = directory / f"{name}.yaml"
    path.write_bytes(content)
    path.chmod(0o640)
    faults = FileDriver({"directory": str(directory)}).validate()
    return [str(fault).replace(f"{path}:", "") for fault in faults]
