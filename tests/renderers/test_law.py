"""The law of the short form: what it says reaches the guest, or a warning names the renderer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

from tests.renderers import losing, reading, short, trees
from tests.renderers.losing import Lost
from tests.renderers.short import ShortForm
from vmw_cloudinit_metadata.instance import advice, nocloud
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.network.interfaces import names_of
from vmw_cloudinit_metadata.instance.network.renderers import RENDERERS
from vmw_cloudinit_metadata.protocol.vmware import Machine

pytestmark = pytest.mark.slow

EXAMPLES = 150
README: ShortForm = [
    {
        "address": ["192.168.1.1/24"],
        "gateway": ["192.168.1.254"],
        "search": ["example.com"],
        "nameservers": ["8.8.8.8", "8.8.4.4"],
    }
]
# Found in files of people: each was accepted, and came up wrong.
CASES: dict[str, ShortForm] = {
    "two-cards-by-mac": [
        {"mac-address": "00:50:56:00:00:01", "address": ["10.0.0.5/24"], "gateway": ["10.0.0.1"]},
        {"mac-address": "00:50:56:00:00:02", "address": ["10.0.1.5/24"]},
    ],
    "dhcp-with-dns-and-routes": [
        {
            "name": "eth0",
            "dhcp": True,
            "nameservers": ["10.0.0.53"],
            "search": ["corp.example"],
            "routes": [{"to": "10.0.0.0/8", "via": "10.1.0.1"}],
        }
    ],
    "route-of-ipv6": [
        {
            "name": "eth0",
            "address": ["10.0.0.5/24", "2001:db8:1::7/64"],
            "routes": [{"to": "2001:db8:99::/48", "via": "2001:db8:1::1"}],
        }
    ],
    "on-link": [
        {
            "name": "eth0",
            "address": ["203.0.113.7/32"],
            "gateway": ["198.51.100.1"],
            "on-link": True,
        }
    ],
}
# Who loses anything of them, by suite and renderer.
LOSERS: dict[str, set[tuple[str, str]]] = {
    "two-cards-by-mac": set(),
    "dhcp-with-dns-and-routes": {("sid", "eni"), ("bookworm", "network-manager")},
    "route-of-ipv6": set(),
    "on-link": {("bookworm", "netplan"), ("bookworm", "networkd")},
}
DISABLED = [{"config": "disabled"}, *({"version": n, "config": "disabled"} for n in (1, 2))]
IS_DISABLED = """
import json, sys
from cloudinit.net import is_disabled_cfg
print(json.dumps([is_disabled_cfg(json.loads(text)) for text in json.load(sys.stdin)]))
"""
MACHINE = Machine(vc_uuid="01234567-89ab-cdef-fedc-ba9876543210")


class Told(NamedTuple):
    """A warning that something at a key of an interface is lost by a renderer."""

    interface: str
    key: str
    renderer: str


class Case(NamedTuple):
    form: ShortForm
    document: str
    told: set[Told]


class Judged(NamedTuple):
    """What each renderer of each version has lost of a case."""

    case: Case
    lost: Mapping[tuple[str, str], list[Lost]]  # by suite and renderer
    failures: Mapping[tuple[str, str], str]  # nothing is rendered


def document_of(network: Any) -> str:
    instance = InstanceData.from_mapping({"metadata": {}, "network": network})
    return nocloud.render(instance, MACHINE)["NETWORKDATA"].decode()


def case_of(form: ShortForm) -> Case:
    instance = InstanceData.from_mapping({"metadata": {}, "network": form})
    names = dict(
        zip(instance.interfaces, names_of(list(instance.interfaces.values())), strict=True)
    )
    told = set()
    for warning in advice.warnings_of(instance):
        for key, name in names.items():
            if warning.key[: len(key)] == key and len(warning.key) == len(key) + 1:
                words = warning.found.replace(",", " ").split()
                told |= {Told(name, str(warning.key[-1]), r) for r in RENDERERS if r in words}
    return Case(form, document_of(form), told)


def judge(cases: list[Case]) -> list[Judged]:
    made = {
        suite.name: trees.rendered(suite, [c.document for c in cases]) for suite in trees.SUITES
    }
    judged = []
    for number, case in enumerate(cases):
        promised = short.promised(case.form)
        lost, failures = {}, {}
        for suite, results in made.items():
            for renderer, files in results[number].items():
                if "failure" in files:
                    failures[suite, renderer] = files["failure"]
                else:
                    found = reading.read(renderer, files)
                    lost[suite, renderer] = list(losing.losses(promised, found))
        judged.append(Judged(case, lost, failures))
    return judged


@pytest.fixture(scope="module")
def judged(program: Callable[[str, str], str]) -> list[Judged]:
    program("mmdebstrap", "mmdebstrap")
    return judge(list(map(case_of, [README, *CASES.values(), *short.many(EXAMPLES)])))


def shown(case: Case, *facts: object) -> str:
    return "\n".join(map(str, (json.dumps(case.form), case.document, *facts)))


def test_document_that_is_not_rendered_is_reported(judged: list[Judged]) -> None:
    """There are too many search domains."""
    silent = [
        shown(each.case, suite, renderer, failure)
        for each in judged
        for (suite, renderer), failure in each.failures.items()
        if ("search", renderer) not in {told[1:] for told in each.case.told}
    ]
    assert silent == []


def test_what_is_lost_is_reported(judged: list[Judged]) -> None:
    silent = [
        shown(each.case, suite, renderer, lost)
        for each in judged
        for (suite, renderer), losses in each.lost.items()
        for lost in losses
        if Told(lost.interface, lost.key, renderer) not in each.case.told
    ]
    assert silent == []


def test_what_is_reported_is_lost(judged: list[Judged]) -> None:
    """In a version of cloud-init; one that renders nothing has lost all."""
    wrong = [
        shown(each.case, told)
        for each in judged
        for told in each.case.told
        if told.renderer not in {renderer for _, renderer in each.failures}
        and not any(
            (lost.interface, lost.key, renderer) == told
            for (_, renderer), losses in each.lost.items()
            for lost in losses
        )
    ]
    assert wrong == []


def test_example_of_the_readme_reaches_every_renderer(judged: list[Judged]) -> None:
    (example,) = (each for each in judged if each.case.form == README)
    assert example.case.told == set()
    assert json.loads(example.case.document)["version"] == 1
    assert not any(example.lost.values())


@pytest.mark.parametrize("name", CASES)
def test_case_reaches_the_renderers(judged: list[Judged], name: str) -> None:
    (case,) = (each for each in judged if each.case.form == CASES[name])
    assert {place for place, losses in case.lost.items() if losses} == LOSERS[name]


@pytest.mark.parametrize("suite", trees.SUITES, ids=lambda suite: suite.name)
def test_disabled_network_is_disabled(suite: trees.Suite) -> None:
    documents = [*map(document_of, DISABLED), document_of(README)]
    assert trees.run(suite, IS_DISABLED, documents) == [True, True, True, False]
