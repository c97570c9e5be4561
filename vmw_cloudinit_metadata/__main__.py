"""The program's entry point: `python -m vmw_cloudinit_metadata`, and `vmw-cloudinit-metadata`."""

import signal
import sys


def main() -> None:
    """Holds back HUP of `run`, which would end it until it is obeyed (cli/serve.py). Before all
    imports: they take most of a second."""
    if sys.argv[1:2] == ["run"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    from vmw_cloudinit_metadata.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
