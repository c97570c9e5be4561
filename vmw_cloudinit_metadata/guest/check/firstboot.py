"""Finds what would keep cloud-init from taking the agent's seed, or from applying all of it.

On a first boot ds-identify decides whether cloud-init runs, before the agent. Then cloud-init
looks for its data source and merges other configuration into it. Both depend on the kernel
command line, so each one in the image is judged. Reads files through the tree.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from vmw_cloudinit_metadata.guest.agent.conf import SEED_DIR
from vmw_cloudinit_metadata.guest.check import dsidentify
from vmw_cloudinit_metadata.guest.check.boundedtexts import load_yaml, read_texts
from vmw_cloudinit_metadata.guest.check.commandlines import CommandLine, command_lines
from vmw_cloudinit_metadata.guest.check.configfaults import of_files, of_values, package_files
from vmw_cloudinit_metadata.guest.check.configlayers import MAIN, CloudConfig, Set
from vmw_cloudinit_metadata.guest.check.dsidentify import (
    RIGHT_LIST,
    ScriptInput,
    ScriptReader,
    Verdict,
)
from vmw_cloudinit_metadata.guest.check.finding import ImageFinding
from vmw_cloudinit_metadata.guest.image import datasource
from vmw_cloudinit_metadata.guest.image.tree import Tree

DS_IDENTIFY = (
    "/usr/lib/cloud-init/ds-identify",
    "/usr/libexec/cloud-init/ds-identify",
    "/lib/cloud-init/ds-identify",
)
_OFF = "cloud-init=disabled"
_DISABLED = "/etc/cloud/cloud-init.disabled"
_UPGRADED_NETWORK = "/var/lib/cloud/data/upgraded-network"
_INSTANCE = "/var/lib/cloud/instance/obj.pkl"
_KLIBC = "/usr/share/initramfs-tools"
_DRACUT = ("/usr/lib/dracut", "/usr/bin/dracut")
_DS_NOCLOUD = ("ds=nocloud", "ds=nocloud-net")
_NOWHERE = "kernel command line"


@dataclass(frozen=True, slots=True)
class CloudInit:
    """cloud-init of an image: its version's peculiarities, and all that it reads."""

    reader: ScriptReader
    ignores_case: bool  # of a data source's name
    config: CloudConfig
    given: ScriptInput

    @classmethod
    def read(cls, tree: Tree, config: CloudConfig) -> CloudInit:
        program = next((text for text in map(tree.text, DS_IDENTIFY) if text), "")
        importers = map(tree.text, package_files(tree, "importer.py"))
        names = [name for name in tree.glob(f"{datasource.DIRECTORY}/*.cfg") if "/." not in name]
        return cls(
            ScriptReader.of(program) if program else ScriptReader(),
            all("match_case_insensitive" in text for text in importers),
            config,
            ScriptInput(
                [*read_texts(tree, [MAIN, *names]).items()], tree.text(dsidentify.SETTINGS)
            ),
        )

    def tries_nocloud(self, sources: object) -> bool:
        """Return whether cloud-init tries NoCloud if this is its datasource_list."""
        names = [*sources] if isinstance(sources, (list, dict)) else []
        if not all(isinstance(name, str) and "." not in name for name in names):
            return False  # it fails
        return any(map(self._is_nocloud, names))

    def _is_nocloud(self, name: str) -> bool:
        if self.ignores_case and name.lower() == "nocloud-net":
            return True
        name = name.removeprefix("DataSource")
        return name == "NoCloud" or (self.ignores_case and name.lower() == "nocloud")


def of_first_boot(tree: Tree, config: CloudConfig) -> Iterator[ImageFinding]:
    """Yield what prevents that cloud-init uses the seed."""
    if tree.is_file(_DISABLED):
        yield ImageFinding(_DISABLED, "cloud-init is disabled", "remove this file")
    if tree.find(_UPGRADED_NETWORK):
        yield ImageFinding(_UPGRADED_NETWORK, "no network is configured", "remove this file")
    cloud_init = CloudInit.read(tree, config)
    for line in command_lines(tree):
        with_line = config.with_command_line(line.text, line.place)
        yield from _of_data_source(cloud_init, with_line, line)
        yield from _of_words(tree, line)
        yield from _of_network(with_line)
        yield from of_values(tree, with_line)
        yield from _of_inline_data(with_line)
        yield from _of_other_keys(tree, with_line)
    yield from of_files(config)


def _of_data_source(
    cloud_init: CloudInit, config: CloudConfig, line: CommandLine
) -> Iterator[ImageFinding]:
    """Yield why cloud-init does not run, or does not try NoCloud."""
    if _OFF in line.text:
        yield ImageFinding(line.place, f"{_OFF} disables cloud-init", f"remove {_OFF}")
        return
    given = ScriptInput(cloud_init.given.configs, cloud_init.given.settings, line.text)
    verdict = dsidentify.identify(given, cloud_init.reader)
    if verdict.exit_code != dsidentify.RUNS:
        yield _finding(verdict, line)
        return
    configured = config.get("datasource_list")
    is_on_command_line = bool(configured and line.place and configured[0].place == line.place)
    written = None if is_on_command_line else _list_in(verdict)
    if written is not None:
        if not cloud_init.tries_nocloud(written):
            yield _finding(verdict, line)
    elif configured and not cloud_init.tries_nocloud(configured[0].value):
        yield ImageFinding(
            configured[0].place,
            "the last datasource_list lacks NoCloud",
            f"remove it, or write `{RIGHT_LIST}`",
        )


def _list_in(verdict: Verdict) -> object:
    """Return the list that ds-identify writes; None if it writes none, or none that is YAML."""
    if verdict.written is None:
        return None
    try:
        return load_yaml(verdict.place, verdict.written)
    except ValueError:
        return None


def _finding(verdict: Verdict, line: CommandLine) -> ImageFinding:
    place = verdict.place or (line.place if verdict.problem else "")
    return ImageFinding(place or _default_place(verdict), verdict.problem, verdict.remedy)


def _default_place(verdict: Verdict) -> str:
    return datasource.FILE if RIGHT_LIST in verdict.remedy else _NOWHERE


def _of_words(tree: Tree, line: CommandLine) -> Iterator[ImageFinding]:
    """Yield what words of the kernel command line set in place of the server's data."""
    names = [word for word in line.words if word.startswith("ds=nocloud")]
    if any(name.partition(";")[0] in _DS_NOCLOUD for name in names) and _pairs(names[-1]):
        yield ImageFinding(
            line.place, f"{names[-1]} overrides the server's meta-data", "remove what follows the ;"
        )
    for word in line.words:
        key, _, value = word.partition("=")
        if key == "network-config" and value:
            yield ImageFinding(
                line.place, f"{key}= replaces the server's network", f"remove {key}= from it"
            )
        elif key in ("ip", "ip6") and value not in ("", "off", "none"):
            yield ImageFinding(
                line.place,
                f"{word}: the initramfs configures the network, and cloud-init takes that",
                f"remove {word}",
                _has_only_dracut(tree),
            )
        elif key == "cloud-config-url" and value:
            yield ImageFinding(
                line.place,
                f"{key}=: cloud-init downloads configuration, which was not checked",
                f"remove {key}=",
                True,
            )


def _pairs(value: str) -> list[str]:
    """Return the `key=value` of `nocloud;key=value`."""
    return [pair for pair in value.split(";")[1:] if pair]


def _has_only_dracut(tree: Tree) -> bool:
    """Return whether the initramfs leaves nothing that cloud-init reads."""
    return not tree.find(_KLIBC) and any(map(tree.find, _DRACUT))


def _of_network(config: CloudConfig) -> Iterator[ImageFinding]:
    for one in config.get("network"):
        if one.value:
            is_disabled = isinstance(one.value, dict) and one.value.get("config") == "disabled"
            problem = (
                "network: {config: disabled}: no network is configured"
                if is_disabled
                else "network: cloud-init uses this and not the server's network"
            )
            yield ImageFinding(one.place, problem, "remove the key")


def _of_inline_data(config: CloudConfig) -> Iterator[ImageFinding]:
    """Yield data for NoCloud that is in the configuration itself."""
    for one in _true(config.get("datasource", "NoCloud", "seedfrom")):
        yield ImageFinding(
            one.place, "datasource: NoCloud: seedfrom: overrides the seed", "remove the key"
        )
    user, meta = (config.get("datasource", "NoCloud", f"{kind}-data") for kind in ("user", "meta"))
    if user and meta:
        yield ImageFinding(
            user[0].place,
            "datasource: NoCloud: user-data and meta-data override the seed",
            "remove both keys",
        )


def _true(found: list[Set]) -> list[Set]:
    return [one for one in found if one.value]


def _of_other_keys(tree: Tree, config: CloudConfig) -> Iterator[ImageFinding]:
    found = config.is_true("allow_userdata", default=True)
    if found:
        yield ImageFinding(found.place, "allow_userdata: user-data is ignored", "remove the key")
    found = config.is_true("manual_cache_clean")
    if found:
        yield ImageFinding(
            found.place,
            "manual_cache_clean: cloud-init keeps the instance of an earlier boot, also in a clone",
            "remove the key",
            not tree.find(_INSTANCE),
        )
    found = config.is_true("preserve_hostname")
    if found:
        yield ImageFinding(
            found.place, "preserve_hostname: the host name is not set", "remove the key", True
        )
    for one in config.get("disable_vmware_customization")[:1]:
        if one.value is False:
            yield ImageFinding(
                one.place,
                "disable_vmware_customization: false: VMware Tools leaves a customization"
                " specification to cloud-init, which does not read it beside a seed",
                "use either a specification or this agent; see docs/guest.md",
                True,
            )
    for one in config.get("system_info", "paths", "cloud_dir")[:1]:
        if posixpath.normpath(f"{one.value}/seed/nocloud") != SEED_DIR:
            yield ImageFinding(
                one.place,
                f"system_info: paths: cloud_dir: cloud-init looks for the seed in {one.value}",
                f"remove the key: the agent publishes {SEED_DIR}",
            )
    for key in ("merge_how", "merge_type"):
        for one in config.get(key)[:1]:
            yield ImageFinding(
                one.place, f"{key}: files are merged in another way", "remove it", True
            )
