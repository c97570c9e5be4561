"""The program's entry point: `python -m vmw_cloudinit_metadata`, and `vmw-cloudinit-metadata`."""

import signal
import sys


def main() -> None:
    """Hold back HUP and USR2, which would end `run` before cli/serve.py handles them. This comes
    before all imports, which take most of a second."""
    if sys.argv[1:2] == ["run"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP, signal.SIGUSR2])
    from vmw_cloudinit_metadata.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
