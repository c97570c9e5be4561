"""The files that complete the command line in bash, zsh and fish."""

from __future__ import annotations

from pathlib import Path

from vmw_cloudinit_metadata.cli.completion import PROGRAMS, script

# Where the shells look, below /usr/share; RPM distributions have another directory for zsh.
PLACES = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/vendor-completions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}


def write(share: Path) -> None:
    for program in PROGRAMS:
        for shell, place in PLACES.items():
            file = share / place.format(program)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(script(shell, program))
