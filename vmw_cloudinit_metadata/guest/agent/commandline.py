"""The command line: options, exit codes, and what each run does."""

import argparse
import os
import signal
import sys
from typing import Any, Optional, Sequence

from vmw_cloudinit_metadata.guest.agent.agentoutput import (
    NotPrinted,
    ReaderGone,
    note,
    put,
)
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
from vmw_cloudinit_metadata.guest.agent.identityrequest import audience, run_identity
from vmw_cloudinit_metadata.guest.agent.journal import NAME, Journal
from vmw_cloudinit_metadata.guest.agent.obstacles import Image, run_check
from vmw_cloudinit_metadata.guest.agent.reporting import run_report
from vmw_cloudinit_metadata.guest.agent.system import System

EPILOG = """\
exit codes:
  0  the boot can go on: the seed is published, unchanged or kept, or there is nothing to ask;
     report: the server has the report, or takes none; identity: the document is printed
  1  the seed could not be written; --check found something; --dry-run, identity got no data;
     report: the server did not take it; what was to be printed could not be
  2  the command line is invalid
  143, 130  stopped by SIGTERM or SIGINT; the seed is the old one or the new one
  141  what reads the output has closed it

Each option except --config, --root, --check, --dry-run, --force and --audience can also be set in
the section [agent] of the configuration file, under the same name: `first-boot-timeout = 60`.
"""


class Parser(argparse.ArgumentParser):
    """Prints as the agent does."""

    def print_help(self, file: Any = None) -> None:  # noqa: ARG002 - argparse gives none
        put(self.format_help().encode())

    def error(self, message: str) -> Any:
        note(f"{self.format_usage()}{NAME}: error: {message}")
        sys.exit(2)


def parser() -> Parser:
    made = Parser(
        NAME,
        description="Fetches cloud-init's NoCloud seed over a VMware virtual serial port.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("what", nargs="?", default="fetch", choices=("fetch", "report", "identity"),
                      help="fetch: the seed (the default). report: tell the server how this boot "
                      "ended. identity: print an identity document")  # fmt: skip
    made.add_argument("--audience", metavar="TEXT", help="whom the identity document is for; "
                      "required with identity")  # fmt: skip
    for setting in SETTINGS:
        switch: Any = {"nargs": "?", "const": "yes"} if setting.read is yes_or_no else {}
        made.add_argument("--" + setting.name, metavar=setting.values, help=setting.help, **switch)
    made.add_argument("--config", metavar="FILE", default=CONFIG, help=f"settings ({CONFIG})")
    made.add_argument("--root", metavar="DIR", default="/", help="the root of the system's tree; "
                      "every path is below it (/)")  # fmt: skip
    made.add_argument("--force", action="store_true", help="the same as --gate off")
    made.add_argument("--dry-run", action="store_true", help="print what would be written, and "
                      "change nothing; this prints user-data and its secrets too")  # fmt: skip
    made.add_argument("--check", action="store_true", help="list what in this image, or on this "
                      "machine, would keep the agent from working")  # fmt: skip
    return made


def settings_of(made: Parser, arguments: argparse.Namespace, config: Settings) -> Settings:
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


def useless(arguments: argparse.Namespace) -> str:
    """Return which option has no effect with the others; "" for none."""
    if arguments.check and (arguments.what != "fetch" or arguments.dry_run):
        return f"--check goes without {'--dry-run' if arguments.dry_run else arguments.what}"
    if arguments.what == "identity" and arguments.dry_run:
        return "--dry-run has no effect with identity, which only prints"
    if arguments.force and arguments.gate is not None:
        return "--force is the same as --gate off: give only one of them"
    return ""


def main(words: Optional[Sequence[str]] = None) -> int:
    """Return the exit code."""
    try:
        return run(words)
    except ReaderGone:
        return 128 + signal.SIGPIPE
    except NotPrinted as error:
        note(f"{NAME}: standard output: {error}")
        return 1


def run(words: Optional[Sequence[str]]) -> int:
    """Return the exit code; raise NotPrinted."""
    made = parser()
    arguments = made.parse_args(words)
    system = System(os.path.abspath(arguments.root))
    journal = Journal(system.at("/dev/console"))
    for name, read in (("config", absolute_path), ("audience", audience)):
        given = getattr(arguments, name)
        try:
            if given is not None:
                read(given)
        except ValueError as error:
            made.error(f"--{name}: found {given!r}, expected {error}")
    config, faults = read_config(system.at(arguments.config), arguments.config != CONFIG)
    settings = settings_of(made, arguments, config)
    if (arguments.what == "identity") != (arguments.audience is not None):
        made.error("--audience goes with identity, and identity with --audience")
    reason = useless(arguments)
    if reason:
        made.error(reason)
    if arguments.check:
        return run_check(Image(system, settings, arguments.config))
    for fault in faults:
        journal.announce(fault)
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if arguments.what == "report":
        return run_report(system, settings, journal, arguments.dry_run)
    if arguments.what == "identity":
        return run_identity(system, settings, journal, arguments.audience)
    return Agent(system, settings, journal).run(arguments.dry_run)


def stop(number: int, _frame: Any) -> None:
    """Exit in order, so that the port gets its attributes back."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
