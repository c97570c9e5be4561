"""Decides as cloud-init's program ds-identify does, which runs first and may disable cloud-init.

A systemd generator calls it before any unit, so on a first boot there is no seed yet. It is a
shell script that reads YAML by lines. What it does is done here too, with its oddities:

- A `datasource_list` counts only in brackets on one line. A later line wins.
- Its older form (to cloud-init 23) reads with `read`: it ignores a last line without a line end.
- Its newer form reads with `grep`: a key counts anywhere in a line, also before a comment.

Versions differ in details: those of the image's own program are taken (`ScriptReader.of`). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SETTINGS = "/etc/cloud/ds-identify.cfg"
RIGHT_LIST = "datasource_list: [NoCloud, None]"

_SPACE = " \t\n\v\f\r"  # in the locale of a boot
_BETWEEN_WORDS = re.compile(r"[ \t\n]+")  # the shell's IFS
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_STARTS_ANYWAY = re.compile(
    r"^DI_DEFAULT_POLICY=.*notfound=(?:enabled|\$\{?DI_ENABLED)\b", re.MULTILINE
)
_NO_SEED = "on a first boot there is no seed yet, so ds-identify disables cloud-init"
# Exit codes.
RUNS, NOT_FOUND = 0, 1


@dataclass(frozen=True, slots=True)
class ScriptReader:
    """How a version of ds-identify reads."""

    by_grep: bool = True
    reads_ds: bool = True  # the kernel's `ds=`; all versions read `ci.ds=`
    reads_seedfrom: bool = True
    joins_words: bool = False  # when it trims
    starts_anyway: bool = False  # if it finds nothing: Photon's default policy

    @classmethod
    def of(cls, program: str) -> ScriptReader:
        """Return the reader for a program's text."""
        return cls(
            'grep "$key' in program,
            re.search(r"^[ \t]*ds\) _rc_dsname=", program, re.MULTILINE) is not None,
            "check_config seedfrom" in program or 'check_config "seedfrom"' in program,
            '_RET="$*"' in program,
            _STARTS_ANYWAY.search(program) is not None,
        )

    def trimmed(self, text: str) -> str:
        """Return the text as the function trim does."""
        return " ".join(_words(text)) if self.joins_words else text.strip(_SPACE)


@dataclass(frozen=True, slots=True)
class ScriptInput:
    """What ds-identify reads. `configs` are cloud.cfg and cloud.cfg.d/*.cfg: path and text."""

    configs: Sequence[tuple[str, str]]
    settings: str = ""
    command_line: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ds-identify does. `place` is "" for the kernel command line, as for nothing at all."""

    exit_code: int
    # The datasource_list that it writes for cloud-init: text of YAML; None: it writes none.
    written: str | None = None
    place: str = ""
    problem: str = ""
    remedy: str = ""


def identify(given: ScriptInput, reader: ScriptReader) -> Verdict:
    """Return what ds-identify does on the first boot of a VM, without any seed or disc.

    The word `cloud-init=disabled` is not for it: in older versions its generator reads that.
    """
    command_line = _resolved(given.command_line + "\n").partition("\n")[0].strip(" \t")
    policy, name = _settings(given.settings, command_line, reader)
    mode, not_found = _mode(policy.value, "enabled" if reader.starts_anyway else "disabled")
    if mode == "disabled":
        return Verdict(
            NOT_FOUND,
            place=policy.place,
            problem=f"{policy.word} disables cloud-init",
            remedy=f"remove {policy.word}",
        )
    if mode in ("enabled", "report"):  # a report has no effect
        return Verdict(RUNS)
    if name.value:
        return Verdict(
            RUNS,
            _written(name.value),
            name.place,
            f"{name.word} limits cloud-init to that data source",
            f"remove {name.word}",
        )
    return _search(given, command_line, reader, runs_anyway=not_found == "enabled")


def _search(
    given: ScriptInput, command_line: str, reader: ScriptReader, *, runs_anyway: bool
) -> Verdict:
    sources = _list_on_command_line(command_line, reader)
    place, value = "", ""
    if not sources:
        place, value = config_line(given.configs, "datasource_list", reader) or ("", "")
        sources = _list_of(value, reader)
    if len(sources) == 1 or (len(sources) == 2 and sources[1] == "None"):
        return Verdict(
            RUNS,
            _written(sources[0]),
            place,
            f"the datasource_list lacks NoCloud: found {sources[0]}",
            f"remove it, or write `{RIGHT_LIST}`",
        )
    is_searched = not sources or "NoCloud" in sources  # its own list has all
    if is_searched and _finds_nocloud(given, command_line, reader):
        return Verdict(RUNS, _written("NoCloud"))
    if runs_anyway:
        return Verdict(RUNS)
    return Verdict(NOT_FOUND, None, place, _of_list(place, sources), f"write `{RIGHT_LIST}`")


def _written(name: str) -> str:
    """Return the list with this text, which may hold several names, and with None."""
    has_none = f" {name} ".endswith(" None ") or " None, " in f" {name} "
    return f"[ {name} ]" if has_none else f"[ {name}, None ]"


def _of_list(place: str, sources: Sequence[str]) -> str:
    """Return what is wrong with a list that makes ds-identify search."""
    if sources:
        return f"the datasource_list [{', '.join(sources)}] has more than NoCloud: {_NO_SEED}"
    if place:
        return (
            "ds-identify cannot read the datasource_list, which must be in brackets on one line:"
            f" {_NO_SEED}"
        )
    return f"no datasource_list that ds-identify can read: {_NO_SEED}"


def config_line(
    configs: Sequence[tuple[str, str]], key: str, reader: ScriptReader
) -> tuple[str, str] | None:
    """Return the file and the value of the last line that ds-identify takes for this key."""
    find = _by_grep if reader.by_grep else _by_read
    found = [(place, value) for place, text in configs for value in find(key, text)]
    return found[-1] if found else None


def _by_grep(key: str, text: str) -> Iterator[str]:
    pattern = re.compile(rf"{re.escape(key)}[\"']*[ \t\r\f\v]*:")
    if "\0" in text:  # a binary file for grep
        return
    for line in text.split("\n"):
        bare = line.partition("#")[0]
        if bare and pattern.search(line):
            yield bare.partition(": ")[2] if ": " in bare else bare


def _by_read(key: str, text: str) -> Iterator[str]:
    for line in _lines(text):
        bare = line.partition("#")[0]
        if bare == f"{key}:" or bare.startswith(f"{key}: "):
            yield bare.partition(":")[2].removeprefix(" ")


def _lines(text: str) -> Iterator[str]:
    """Yield what the shell's `read` reads: whole lines, backslashes resolved, trimmed."""
    for line in _resolved(text).split("\n")[:-1]:
        yield line.strip(" \t")


def _resolved(text: str) -> str:
    return _ESCAPED.sub(lambda found: "" if found[1] == "\n" else found[1], text.replace("\0", ""))


def _list_of(value: str, reader: ScriptReader) -> list[str]:
    if not reader.by_grep:
        return _array(value, reader)
    return _array(reader.trimmed(value.rpartition(":")[2]), reader)


def _list_on_command_line(command_line: str, reader: ScriptReader) -> list[str]:
    begun, is_there, rest = command_line.rpartition("datasource_list")
    if not is_there or "cc:" not in begun:
        return []
    return _array(rest.partition("]")[0].rpartition("[")[2], reader)


def _array(text: str, reader: ScriptReader) -> list[str]:
    """Split `[a, 'b']`, as the function parse_yaml_array does."""
    items = text.removeprefix("[").removesuffix("]").split(",")
    return _words(" ".join(_unquoted(reader.trimmed(item)) for item in items))


def _words(text: str) -> list[str]:
    return [word for word in _BETWEEN_WORDS.split(text) if word]


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text


@dataclass(frozen=True, slots=True)
class _Setting:
    value: str = ""
    word: str = ""  # as it is written
    place: str = ""


def _settings(text: str, command_line: str, reader: ScriptReader) -> tuple[_Setting, _Setting]:
    """Return the policy and the name of the one data source."""
    found = {"policy": _Setting(), "datasource": _Setting()}
    for line in _lines(text):
        key, is_there, value = line.partition("#")[0].partition(":")
        key, value = reader.trimmed(key), reader.trimmed(value)
        if is_there and key in found:
            found[key] = _Setting(_unquoted(value), f"`{key}: {value}`", SETTINGS)
    keys = {"ci.ds": "datasource", "ci.datasource": "datasource", "ci.di.policy": "policy"}
    if reader.reads_ds:
        keys["ds"] = "datasource"
    for word in _words(command_line):
        key, is_there, value = word.partition("=")
        if key in keys:
            value = value if is_there else word
            found[keys[key]] = _Setting(value.partition(";")[0] if reader.reads_ds else value, word)
    return found["policy"], found["datasource"]


def _mode(policy: str, not_found: str) -> tuple[str, str]:
    """Return the mode, and what happens if nothing is found."""
    mode = "search"
    for word in policy.split(","):
        key, _, value = word.partition("=")
        if word in ("enabled", "disabled", "search", "report"):
            mode = word
        elif key == "notfound" and value in ("enabled", "disabled"):
            not_found = value
    return mode, not_found


def _finds_nocloud(given: ScriptInput, command_line: str, reader: ScriptReader) -> bool:
    """Return whether ds-identify finds NoCloud without a seed: by a word, or inline data."""
    if not reader.reads_ds and " ds=nocloud" in f" {command_line}":
        return True

    def has(key: str) -> bool:
        return config_line(given.configs, key, reader) is not None

    inline = has("user-data") and has("meta-data")
    return has("NoCloud") and (inline or (reader.reads_seedfrom and has("seedfrom")))
