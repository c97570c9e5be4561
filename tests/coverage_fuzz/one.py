"""One target under libFuzzer, in a process of its own: `python -m tests.coverage_fuzz.one NAME`.

What follows the name are libFuzzer's options and directories. Needs atheris.
"""

from __future__ import annotations

import sys

import atheris

# Only what is imported in here is instrumented: nothing of it may be imported before.
with atheris.instrument_imports(include=["vmw_cloudinit_metadata"]):
    from tests.coverage_fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    target.run(b"")  # what is imported late is no slow input
    atheris.Setup([sys.argv[0], *options], target.run)
    atheris.Fuzz()


main()
