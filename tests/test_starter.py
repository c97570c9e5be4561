"""What is forked by the starter of tests ends as a process of its own would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import CHECKOUT, Program, begin, ended

ENDS = {
    "nothing": "print('told', end='')",
    "code": "import sys; print('told', end=''); sys.exit(3)",
    "code-beyond-a-byte": "import sys; sys.exit(259)",
    "none": "import sys; sys.exit(None)",
    "reason": "import sys; sys.exit('reason')",
    "fault": "1 / 0",
    "interrupt": "raise KeyboardInterrupt",
    "atexit": "import atexit; atexit.register(print, 'told')",
    "thread": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('told'))).start()"
    ),
    "closed-output": "import sys; sys.stdout.close()",
    "full-output": "import sys; sys.stdout = open('/dev/full', 'w'); print('lost')",
}


def end_of(command: list[str], env: dict[str, str]) -> tuple[int, str, str]:
    done = ended(command, lambda out, err: begin(command, out, err, CHECKOUT, env))
    return done.returncode, done.stdout, (done.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize("name", ENDS)
def test_forked_program_ends_like_one_that_was_started(name: str) -> None:
    words = [sys.executable, "-c", ENDS[name]]
    assert end_of(Program(words), {}) == end_of(words, {})


def test_forked_program_finds_what_its_python_path_has(tmp_path: Path) -> None:
    (tmp_path / "found_by_path.py").write_text("TEXT = 'told'")
    text = "import found_by_path, sys; print(found_by_path.TEXT, sys.path.count(sys.argv[1]))"
    command = Program([sys.executable, "-c", text, str(tmp_path)])
    path = os.pathsep.join([str(tmp_path), "/nowhere"])
    assert end_of(command, {"PYTHONPATH": path}) == (0, "told 1\n", "")
    assert subprocess.run([*command], check=False, capture_output=True).returncode == 1
