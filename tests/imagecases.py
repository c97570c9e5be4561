"""What people leave in images: files of public reports, and what each one causes.

The files below tests/images/ are as they were reported; here stands where each belongs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
CLOUD = "etc/cloud/cloud.cfg.d"
DS_IDENTIFY = "etc/cloud/ds-identify.cfg"
GRUB = "etc/default/grub"
NM = "etc/NetworkManager/system-connections"


def sample(name: str) -> str:
    return (IMAGES / name).read_text()


@dataclass(frozen=True)
class Cause:
    """Files to put into a tree, and the kernel command line that it then boots with."""

    files: Mapping[str, str] = field(default_factory=dict)
    words: str = ""

    def __or__(self, other: Cause) -> Cause:
        words = f"{self.words} {other.words}".strip()
        return Cause({**self.files, **other.files}, words)

    @property
    def all_files(self) -> Mapping[str, str]:
        if not self.words:
            return self.files
        return {**self.files, GRUB: f'GRUB_CMDLINE_LINUX="{self.words}"\n'}


def config(text: str, name: str = "99-zz.cfg") -> Cause:
    return Cause({f"{CLOUD}/{name}": text})


def policy(text: str) -> Cause:
    return Cause({DS_IDENTIFY: text})


def words(text: str) -> Cause:
    return Cause(words=text)


def grub(name: str) -> Cause:
    """The kernel's words in a reported /etc/default/grub."""
    return words(sample(name).partition('"')[2].rpartition('"')[0])


# Whether each prevents cloud-init from taking the seed depends on the version, and on the others.
CAUSES = {
    "list-as-block": config(sample("dsid/99-z-ours.cfg")),
    "list-over-lines": config(sample("dsid/99-zz-multiline-flow.cfg")),
    "list-of-two": config(sample("dsid/99-zz-two.cfg")),
    "one-source": policy(sample("dsid/ds-identify.cfg.datasource")),
    "disabled-in-quotes": policy(sample("dsid/ds-identify.cfg.quoted")),
    "ds": grub("dsid/grub.ds"),
    "kernel-policy": grub("dsid/grub.policy"),
    "no-network": config(sample("docs/50-disable.cfg"), "50-disable.cfg"),
    "inline-data": config(sample("docs/50-inline.cfg"), "50-inline.cfg"),
    "manual-clean": config(sample("docs/50-manual.cfg"), "50-manual.cfg"),
    "keep-hostname": config(sample("docs/50-preserve.cfg"), "50-preserve.cfg"),
    "seedfrom": config(sample("docs/50-seedfrom.cfg"), "50-seedfrom.cfg"),
    "installer-network": config(
        sample("docs/90-installer-network.cfg"), "90-installer-network.cfg"
    ),
    "ds-nocloud-id": grub("docs/grub.nocloud-i"),
    "list-with-comment": config("datasource_list: [NoCloud, None]  # ours\n"),
    "list-without-line-end": config("datasource_list: [NoCloud, None]"),
    "list-in-quotes": config("datasource_list: ['NoCloud', \"None\"]\n"),
    "quoted-key": config('"datasource_list": [NoCloud, None]\n'),
    "comment-later": config("  # datasource_list: [Ec2]\n"),
    "list-of-one": config("datasource_list: [NoCloud]\n"),
    "other-list": config("datasource_list: [Ec2, None]\n"),
    "lower-case-list": config("datasource_list: [nocloud, None]\n"),
    "null-network": config("network: null\n"),
    "empty-network": config("network: {}\n"),
    "split-network": config("network: {version: 2}\n", "20-v.cfg"),
    "not-yaml": config("network: [\n"),
    "text": config("just text\n", "98-text.cfg"),
    "other-directory": config("system_info: {paths: {cloud_dir: /srv/cloud}}\n", "60-paths.cfg"),
    "template": config("## template: jinja\n{% if 1 %}\nnetwork: {version: 2}\n{% endif %}\n"),
    "latin-1": config("# \udce9\n", "60-latin.cfg"),
    "empty-datasource": config("datasource:\n", "60-ds.cfg"),
    "text-datasource": config("datasource: NoCloud\n", "60-ds.cfg"),
    "label-of-a-number": config("datasource: {NoCloud: {fs_label: 5}}\n", "60-label.cfg"),
    "empty-system-info": config("system_info:\n", "60-info.cfg"),
    "unknown-distro": config("system_info: {distro: nixos}\n", "60-distro.cfg"),
    "full-name-list": config("datasource_list: [DataSourceNoCloud, None]\n"),
    "null-in-list": config("datasource_list: [NoCloud, null]\n"),
    "windows-line-ends": config("datasource_list: [NoCloud, None]\r\n"),
    "policy-with-windows-line-end": policy("policy: disabled\r\n"),
    "two-sources": policy("datasource: NoCloud, Ec2\n"),
    "always": policy("policy: enabled\n"),
    "anyway": policy("policy: search,notfound=enabled\n"),
    "report": policy("policy: report\n"),
    "policy-without-line-end": policy("policy: disabled"),
    "source-lower": policy("datasource: nocloud\n"),
    "ci-ds": words("ci.ds=VMware"),
    "ci-datasource": words("ci.datasource=NoCloud"),
    "ds-last-wins": words("ds=nocloud;i=golden ds=nocloud"),
    "ds-plain": words("ds=nocloud"),
    "ds-net": words("ds=nocloud-net"),
    "ds-seedfrom": words("ds=nocloud;s=/opt/seed/"),
    "cc-list": words("cc:{'datasource_list': ['NoCloud']}"),
    "cc-other-list": words("cc:{datasource_list: [Ec2, None]}"),
    "cc-network": words("cc:network: {version: 2, ethernets: {e: {dhcp4: true}}} end_cc"),
    "network-off": words("network-config=disabled"),
    "disabled": words("cloud-init=disabled"),
    "quiet": words("ro quiet"),
}


def variants() -> Iterator[tuple[str, Cause]]:
    """Each cause alone, then pairs: 80 in all."""
    yield from CAUSES.items()
    names = list(CAUSES)
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    for one, other in pairs[:: len(pairs) // (80 - len(names))][: 80 - len(names)]:
        yield f"{one}+{other}", CAUSES[one] | CAUSES[other]


@contextmanager
def changed(root: Path, files: Mapping[str, str]) -> Iterator[Path]:
    """The tree with these files; afterwards as it was before."""
    before = {name: _content(root / name) for name in files}
    new = [above for name in files for above in (root / name).parents if not above.exists()]
    try:
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        yield root
    finally:
        for name, content in before.items():
            if content is None:
                (root / name).unlink()
            else:
                (root / name).write_bytes(content)
        for above in sorted(set(new), reverse=True):
            above.rmdir()


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
