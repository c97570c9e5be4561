"""The command line: options, exit codes, and what each run does."""

import argparse
import os
import signal
import sys
from typing import Any, Optional, Sequence

from vmw_cloudinit_metadata.guest.agent.agentrun import Agent
from vmw_cloudinit_metadata.guest.agent.conf import (
    CONFIG,
    SETTINGS,
    Settings,
    absolute_path,
    defaults,
    read_config,
    yes_or_no,
)
from vmw_cloudinit_metadata.guest.agent.journal import NAME, Journal
from vmw_cloudinit_metadata.guest.agent.obstacles import Image, run_check
from vmw_cloudinit_metadata.guest.agent.system import System

EPILOG = """\
exit codes:
  0  the boot can go on: the seed is published, unchanged or kept, or there is nothing to ask
  1  the seed could not be written; --check found something; --dry-run got no data
  2  the command line is invalid
  143, 130  stopped by SIGTERM or SIGINT; the seed is the old one or the new one

Each option except --config, --root, --check, --dry-run and --force can also be set in the section
[agent] of the configuration file, under the same name: `first-boot-timeout = 60`.
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        NAME,
        description="Fetches cloud-init's NoCloud seed over a VMware virtual serial port.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for setting in SETTINGS:
        switch: Any = {"nargs": "?", "const": "yes"} if setting.read is yes_or_no else {}
        made.add_argument("--" + setting.name, metavar=setting.values, help=setting.help, **switch)
    made.add_argument("--config", metavar="FILE", default=CONFIG, help=f"settings ({CONFIG})")
    made.add_argument("--root", metavar="DIR", default="/", help="the root of the system's tree; "
                      "every path is below it (/)")  # fmt: skip
    made.add_argument("--force", action="store_true", help="the same as --gate off")
    made.add_argument("--dry-run", action="store_true", help="print what would be written, and "
                      "write nothing; this prints user-data and its secrets too")  # fmt: skip
    made.add_argument("--check", action="store_true", help="list what in this image, or on this "
                      "machine, would keep the agent from working")  # fmt: skip
    return made


def settings_of(
    made: argparse.ArgumentParser, arguments: argparse.Namespace, config: Settings
) -> Settings:
    """Return defaults < configuration file < command line; exit with 2 if that is invalid."""
    settings = dict(defaults(), **config)
    for setting in SETTINGS:
        given = getattr(arguments, setting.name.replace("-", "_"))
        if given is None:
            continue
        try:
            settings[setting.name] = setting.read(given)
        except ValueError as error:
            made.error(f"--{setting.name}: found {given!r}, expected {error}")
    if arguments.force:
        settings["gate"] = "off"
    return settings


def main(words: Optional[Sequence[str]] = None) -> int:
    """Return the exit code."""
    made = parser()
    arguments = made.parse_args(words)
    system = System(os.path.abspath(arguments.root))
    journal = Journal(system.at("/dev/console"))
    try:
        absolute_path(arguments.config)
    except ValueError as error:
        made.error(f"--config: found {arguments.config!r}, expected {error}")
    config, faults = read_config(system.at(arguments.config), arguments.config != CONFIG)
    settings = settings_of(made, arguments, config)
    if arguments.check:
        return run_check(Image(system, settings, arguments.config))
    for fault in faults:
        journal.announce(fault)
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return Agent(system, settings, journal).run(arguments.dry_run)


def stop(number: int, _frame: Any) -> None:
    """Exit in order, so that the port gets its attributes back."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
