"""What a file costs grows no faster than the file, whatever is in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from cProfile import Profile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES
from vmw_cloudinit_metadata.instance import advice, nocloud
from vmw_cloudinit_metadata.instance.fault import MAX_FAULTS, MAX_TEXT_BYTES, InvalidInstanceData
from vmw_cloudinit_metadata.instance.keys import FILE_LEVEL, canonical
from vmw_cloudinit_metadata.instance.keyspelling import unknown_faults
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.parsing import seed
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.settings import configfile
from vmw_cloudinit_metadata.settings.configfile import Shape
from vmw_cloudinit_metadata.settings.errors import ConfigError

# A file's text for a number of repetitions.
Construct = Callable[[int], str]

NETWORK = "metadata: {}\nnetwork:\n  address: 10.0.0.1/24\n"
# All have the same remainder by 2**61 - 1, which is Python's hash of a number.
COLLIDING = 2**61 - 1


def each(head: str, form: str, tail: str = "") -> Construct:
    """`form` again and again; `{0}` in it is the number of each."""
    is_same = "{" not in form
    return lambda n: head + (form * n if is_same else "".join(map(form.format, range(n)))) + tail


def addresses_with_gateways(n: int) -> str:
    # the second and the third of each network of four addresses
    networks = [f"10.{i >> 14}.{i >> 6 & 255}." for i in range(n)]
    hosts = [i << 2 & 255 for i in range(n)]
    own = ", ".join(f"{a}{b + 1}/30" for a, b in zip(networks, hosts, strict=True))
    gateways = ", ".join(f"{a}{b + 2}" for a, b in zip(networks, hosts, strict=True))
    return f"metadata: {{}}\nnetwork: {{address: [{own}], gateway: [{gateways}]}}\n"


def addresses_with_routes(n: int) -> str:
    own = ", ".join(f"10.{i >> 14}.{i >> 6 & 255}.{(i << 2 & 255) + 1}/30" for i in range(n))
    routes = "".join(
        f"  - {{to: 11.0.0.0/8, via: 10.{i >> 14}.{i >> 6 & 255}.{(i << 2 & 255) + 2}}}\n"
        for i in range(n)
    )
    return f"metadata: {{}}\nnetwork:\n  address: [{own}]\n  routes:\n{routes}"


def chain_of_merges(n: int) -> str:
    links = "".join(f"  a{i}: &a{i} {{<<: *a{i - 1}, k{i}: {i}}}\n" for i in range(1, n))
    return f"metadata: {{}}\nuserdata:\n  a0: &a0 {{k: 0}}\n{links}"


CONSTRUCTS: dict[str, Construct] = {
    "wrong-interfaces": each("metadata: {}\nnetwork:\n", "- {{address: x, foo: 2}}\n"),
    "interfaces-of-text": each("metadata: {}\nnetwork:\n", "- x\n"),
    "interfaces-without-a-prefix": each("metadata: {}\nnetwork:\n", "- {{address: 10.0.0.1}}\n"),
    "right-interfaces": each("metadata: {}\nnetwork:\n", "- {{name: e{0}, dhcp: true}}\n"),
    "addresses-with-gateways": addresses_with_gateways,
    "addresses-with-routes": addresses_with_routes,
    "interfaces-without-a-name": each("metadata: {}\nnetwork:\n", "- {{dhcp: true}}\n"),
    "interfaces-of-one-name": each("metadata: {}\nnetwork:\n", "- {{name: a, dhcp: true}}\n"),
    "interfaces-of-version-2": each(
        "metadata: {}\nnetwork:\n", "- {{name: e{0}, dhcp: true, nameservers: 10.0.0.9}}\n"
    ),
    "interfaces-with-domains": each(
        "metadata: {}\nnetwork:\n", "- {{name: e{0}, dhcp: true, mtu: 1400, search: d{0}.a}}\n"
    ),
    "metrics": each(NETWORK + "  routes:\n", "  - {{to: 11.0.0.0/8, via: 10.0.0.2, metric: 1}}\n"),
    "keys-of-cloud-init": each("metadata: {}\nnetwork:\n", "- {{dhcp4: true}}\n"),
    "unknown-keys": each("metadata: {}\n", "k{0}: 1\n"),
    "unknown-keys-nearly-known": each("metadata: {}\n", "metadat{0}: 1\n"),
    "unknown-long-keys": each("metadata: {}\n", f"{'metadata' * 20}{{0}}: 1\n"),
    "unknown-keys-of-an-interface": each(NETWORK, "  addres{0}: 1\n"),
    "duplicate-keys": each("metadata: {}\nuserdata:\n", "  a: 1\n"),
    "keys-with-both-forms": each(
        "metadata: {}\nnetwork:\n", "- {{on-link: true, on_link: true, dhcp: true}}\n"
    ),
    "further-metadata": each("metadata:\n", "  a{0}: 1\n"),
    "metadata-that-is-no-json": each("metadata:\n", "  a{0}: .nan\n"),
    "tags": each("metadata:\n  tags:\n", "    a{0}: 1\n"),
    "public-keys": each("metadata:\n  public-keys:\n", "  - a\n"),
    "public-keys-of-a-text": each("metadata:\n  public-keys: |\n", "    ssh-rsa AAAA\n"),
    "public-keys-of-comments": each("metadata:\n  public-keys: |\n", "    # a\n"),
    "public-keys-by-name": each("metadata:\n  public-keys:\n", "    a{0}: ssh-rsa AAAA\n"),
    "public-key-of-types": each("metadata:\n  public-keys: 'ssh-rsa AAAA ", "ssh-", "'\n"),
    "placeholders": each("metadata:\n", "  a{0}: {{{{ x }}}}\n"),
    "placeholders-in-quotes": each("metadata:\n", "  a{0}: '{{{{ x }}}}'\n"),
    "placeholder-that-is-open": lambda n: "metadata:\n  a: '" + "{{" * n + "'\n",
    "at-signs": each("metadata:\n  a: '", "@a", "'\n"),
    "aliases-of-a-placeholder": each("x-a: &a {{ b }}\nmetadata: {a: [", "*a,", "]}\n"),
    "keys-for-anchors": each("metadata: {}\n", "x-{0}: 1\n"),
    "lines-without-a-colon": each("metadata: {}\n", "a\n", "b: c\n"),
    "comments-above-a-colon": each("metadata: {}\na: b\n", "#\n", "  b: c\n"),
    "breaks-of-yaml-alone": each("metadata: {}\n", "a{0}: '\u2028'\n"),
    "public-key-of-options": each("metadata:\n  public-keys: 'a", 'a="b\\\\"" ,', "'\n"),
    "public-key-of-blanks": each("metadata:\n  public-keys: 'ssh-rsa a", "\t ", ".'\n"),
    "routes": each(NETWORK + "  routes:\n", "  - {{to: default, via: 10.0.0.2}}\n"),
    "wrong-routes": each(NETWORK + "  routes:\n", "  - {{to: x}}\n"),
    "words": each(NETWORK + "  nameservers: ", "x ", "\n"),
    "search": each(NETWORK + "  search: ", "a.b ", "\n"),
    "nameservers": each(NETWORK + "  nameservers:\n", "  - 10.0.0.9\n"),
    "domain-of-dots": each(NETWORK + "  search: 'a", ".a", "/'\n"),
    "documents": each("metadata: {}\ndocuments:\n", "  a{0}: x\n"),
    "user-data-mapping": each("metadata: {}\nuserdata:\n", "  a{0}: 1.5\n"),
    "user-data-text": each("metadata: {}\nuserdata: |\n", "  abc\n"),
    "user-data-of-blank-lines": each("metadata: {}\nuserdata: |1\n", "  \n"),
    "user-data-of-blanks": each("metadata: {}\nuserdata: '", " ", "'\n"),
    "native-network": each("metadata: {}\nnetwork: {version: 2, e: {", "e{0}: 1.5, ", "}}\n"),
    "native-interfaces": each(
        "metadata: {}\nnetwork: {version: 2, ethernets: {",
        "e{0}: {{addresses: [10.0.0.1/24, x], mtu: x, routes: [{{to: x}}]}}, ",
        "}}\n",
    ),
    "native-entries": each(
        "metadata: {}\nnetwork: {version: 1, config: [",
        "{{type: physical, name: e{0}, subnets: [{{type: static, address: 10.0.0.1}}]}}, ",
        "]}\n",
    ),
    "native-routes": each(
        "metadata: {}\nnetwork: {version: 2, ethernets: {",
        "e{0}: {{addresses: [10.0.0.1/24], gateway4: 10.0.0.1, "
        "routes: [{{to: default, via: 10.9.0.1}}]}}, ",
        "}}\n",
    ),
    "native-routes-of-one": each(
        "metadata: {}\nnetwork: {version: 2, ethernets: {a: {addresses: [10.0.0.1/24], routes: [",
        "{{to: 0.0.0.0/0, via: 10.9.0.1}}, ",
        "]}}}\n",
    ),
    "native-addresses": each(
        "metadata: {}\nnetwork: {version: 2, ethernets: {a: {addresses: [",
        "10.0.0.1/24, ",
        "]}}}\n",
    ),
    "cloud-config-of-unknown-keys": each(
        "metadata: {}\nuserdata: |\n  #cloud-config\n", "  packagess{0}: 1\n"
    ),
    "archive": each("metadata: {}\nuserdata: |\n  #cloud-config-archive\n", "  - '#!/bin/sh'\n"),
    "parts-of-mime": each(
        "metadata: {}\nuserdata: |\n  MIME-Version: 1.0\n"
        "  Content-Type: multipart/mixed; boundary=x\n\n",
        "  --x\n\n  #!/bin/sh\n",
    ),
    "content-type-of-mime": each(
        'metadata: {}\nuserdata: |\n  MIME-Version: 1.0\n  Content-Type: multipart/mixed; a="',
        ";",
        "\n\n  x\n",
    ),
    "content-type-of-mime-in-lines": each(
        'metadata: {}\nuserdata: |\n  MIME-Version: 1.0\n  Content-Type: multipart/mixed; a="\n',
        "   ;\n",
        "\n  x\n",
    ),
    "user-data-of-blanks-that-is-nearly-base64": each("metadata: {}\nuserdata: 'A", " ", "!'\n"),
    "match": each("metadata: {}\nmatch:\n", "  a{0}: x\n"),
    "merge-of-a-list": each("metadata: {}\nuserdata:\n  <<:\n", "  - {{a{0}: 1}}\n"),
    "merge-keys": each("metadata: {}\nuserdata:\n", "  <<: {{a{0}: 1}}\n"),
    "merges-of-one": each("metadata: {}\nuserdata: {a: &a {b: 1}, c: {<<: [", "*a, ", "]}}\n"),
    "merges-in-a-chain": chain_of_merges,
    "aliases": each("metadata: {}\nuserdata:\n  a: &a x\n  b: [", "*a, ", "]\n"),
    "anchors": each("metadata: {}\nuserdata: {a: [", "&a{0} x, ", "]}\n"),
    "tag-directives": each("", "%TAG !a{0}! x\n", "---\nmetadata: {}\n"),
    "tags-of-yaml": each("metadata: {}\nuserdata: {a: [", "!x 1, ", "]}\n"),
    "nested-lists": each("metadata: {}\nuserdata: ", "[", "\n"),
    "nested-items": each("metadata: {}\nuserdata:\n", "- ", "\n"),
    "nested-keys": each("", "? ", "\n"),
    "sexagesimal": each("metadata: {}\nuserdata: {a: 1", ":10", "}\n"),
    "sexagesimal-float": each("metadata: {}\nuserdata: {a: 1", ":10", ".5}\n"),
    "long-int": each("metadata: {}\nuserdata: {a: ", "9", "}\n"),
    "long-hexadecimal": each("metadata: {}\nuserdata: {a: 0x", "9", "}\n"),
    "long-float": each("metadata: {}\nuserdata: {a: 1.", "9", "}\n"),
    "int-of-underscores": each("metadata: {}\nuserdata: {a: 1", "_", "}\n"),
    "key-of-a-long-int": each("metadata: {}\nuserdata: {? ", "9", ": 1}\n"),
    "long-key": each("? ", "a", "\n: 1\n"),
    "colliding-keys": lambda n: (
        "metadata: {}\nuserdata:\n" + "".join(f"  {i * COLLIDING}: 1\n" for i in range(n))
    ),
    "comments": each("metadata: {}\n", "#\n"),
    "documents-of-yaml": each("metadata: {}\n", "---\n"),
    "quotes": each("metadata: {}\nuserdata: '", "''", "'\n"),
    "escapes": each('metadata: {}\nuserdata: "', "\\u00e9", '"\n'),
    "cloud-config-of-duplicates": each("metadata: {}\nuserdata: |\n  #cloud-config\n", "  a: 1\n"),
    "values-in-one-line": each("metadata: {}\nuserdata: {a: [", "x,", "]}\n"),
}
EACH_CONSTRUCT = pytest.mark.parametrize("name", CONSTRUCTS)


def check(text: str) -> list[Any]:
    """Reads and checks a file as the driver does, and renders it; returns the faults."""
    read = seed.read(text)
    faults = [read.located(fault, "x.yaml") for fault in read.faults]
    if isinstance(read.value, dict):
        mapping, twice = canonical(read.value)
        faults += [*twice, *islice(unknown_faults(mapping, FILE_LEVEL), MAX_FAULTS + 1)]
        known = {key: value for key, value in mapping.items() if key in FILE_LEVEL}
        try:
            instance = InstanceData.from_mapping(known)
            nocloud.render(instance, Machine(vc_uuid="x"))
            faults += advice.warnings_of(instance)
        except InvalidInstanceData as error:
            faults += [read.located(fault, "x.yaml") for fault in error.faults]
    return list(InvalidInstanceData(faults).faults)


def calls_of(function: Callable[[], object]) -> int:
    """How many functions of Python and C it calls: no clock, so the same on any machine."""
    with Profile() as profile:
        function()
    return sum(entry.callcount for entry in profile.getstats())


def is_linear(construct: Construct, n: int) -> bool:
    check(construct(10))  # what is done once is done
    few, many = (calls_of(lambda n=n: check(construct(n))) for n in (n, 2 * n))  # type: ignore[misc]
    return many <= 2 * few + n // 2


@EACH_CONSTRUCT
def test_twice_as_much_of_anything_is_at_most_twice_as_many_steps(name: str) -> None:
    assert is_linear(CONSTRUCTS[name], 250)


@pytest.mark.slow
@EACH_CONSTRUCT
def test_twice_as_much_of_a_thousand_is_at_most_twice_as_many_steps(name: str) -> None:
    assert is_linear(CONSTRUCTS[name], 1000)


@pytest.mark.slow
@EACH_CONSTRUCT
@pytest.mark.parametrize("values", [1 << 22, 99_000, 33_000], ids=str)
def test_no_file_takes_seconds(name: str, values: int) -> None:
    construct = CONSTRUCTS[name]
    size = len(construct(2000)) - len(construct(1000))
    text = construct(min(values, MAX_FILE_BYTES * 1000 // size))[:MAX_FILE_BYTES]
    before_s = time.process_time()
    faults = check(text)
    took_s = time.process_time() - before_s
    assert len(faults) <= MAX_FAULTS + 1
    assert took_s < 6  # 2 s at the most on a quiet machine; what is not linear takes 10 s to hours


@EACH_CONSTRUCT
def test_report_of_a_file_is_bounded(name: str) -> None:
    error = InvalidInstanceData(check(CONSTRUCTS[name](1000)))
    assert len(error.faults) <= MAX_FAULTS + 1
    assert len(str(error).encode()) <= MAX_TEXT_BYTES


def test_more_than_a_hundred_faults_are_said_to_be_more() -> None:
    faults = check(CONSTRUCTS["wrong-interfaces"](1000))
    assert len(faults) == MAX_FAULTS + 1
    assert faults[-1].found == "more than 100 faults"
    assert all("more than 100" not in fault.found for fault in faults[:-1])


SETTINGS: dict[str, Construct] = {
    "unknown": each("uri: x\n", "k{0}: 1\n"),
    "duplicates": each("uri: x\n", "uri: x\n"),
    "list": each("uri:\n", "- {{a: b}}\n"),
    "merges": each("driver-opts:\n", "  <<: {{a{0}: 1}}\n"),
    "sexagesimal": each("driver-opts: {a: 1", ":10", "}\n"),
    "colliding": lambda n: "driver-opts:\n" + "".join(f"  {i * COLLIDING}: 1\n" for i in range(n)),
    "long-key": each("? ", "a", "\n: 1\n"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_file_of_settings_takes_no_seconds(name: str, tmp_path: Path) -> None:
    size = len(SETTINGS[name](2000)) - len(SETTINGS[name](1000))
    file = tmp_path / "server.yaml"
    file.write_text(SETTINGS[name]((configfile.MAX_FILE_BYTES - 1000) * 1000 // size))
    shapes = {"uri": Shape.LIST, "driver-opts": Shape.MAPPING}
    before_s = time.process_time()
    with suppress(ConfigError):
        configfile.read(file, shapes)
    assert time.process_time() - before_s < 6


@pytest.mark.parametrize("name", ["unknown", "duplicates", "list", "colliding", "long-key"])
def test_report_of_a_file_of_settings_is_bounded(name: str, tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(SETTINGS[name](3000))
    with pytest.raises(ConfigError) as caught:
        configfile.read(file, {"uri": Shape.LIST, "driver-opts": Shape.MAPPING})
    assert len(str(caught.value).encode()) <= MAX_TEXT_BYTES
