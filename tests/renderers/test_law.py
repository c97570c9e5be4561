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
from vmw_cloudinit_metadata.instance.interfaces import names_of
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.renderers import RENDERERS
from vmw_cloudinit_metadata.protocol.vmware import Machine

pytestmark = pytest.mark.slow

EXAMPLES = 150
MACHINE = Machine(vc_uuid="01234567-89ab-cdef-fedc-ba9876543210")


class Told(NamedTuple):
    """A warning that something at a key of an interface is lost by a renderer."""

    interface: str
    key: str
    renderer: str


class Case(NamedTuple):
    form: Any
    document: str
    told: set[Told]


class Judged(NamedTuple):
    """What each renderer of each version has lost of a case."""

    case: Case
    lost: Mapping[tuple[str, str], list[Lost]]  # by suite and renderer
    failures: Mapping[tuple[str, str], str]  # nothing is rendered


def case_of(form: ShortForm | dict[str, Any]) -> Case:
    instance = InstanceData.from_mapping({"metadata": {}, "network": form})
    document = nocloud.render(instance, MACHINE)["NETWORKDATA"].decode()
    names = dict(zip(instance.interfaces, names_of(list(instance.interfaces.values())), strict=True))
    told = set()
    for warning in advice.warnings_of(instance):
        for key, name in names.items():
            if warning.key[: len(key)] == key and len(warning.key) == len(key) + 1:
                words = warning.found.replace(",", " ").split()
                told |= {Told(name, str(warning.key[-1]), r) for r in RENDERERS if r in words}
    return Case(form, document, told)


def judge(cases: list[Case]) -> list[Judged]:
    made = {suite.name: trees.rendered(suite, [c.document for c in cases]) for suite in trees.SUITES}
    judged = []
    for number, case in enumerate(cases):
        promised = short.promised(case.form if isinstance(case.form, list) else [case.form])
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
    return judge(list(map(case_of, short.many(EXAMPLES))))


def shown(case: Case, *facts: object) -> str:
    return "\n".join(map(str, (json.dumps(case.form), case.document, *facts)))


def test_document_that_is_not_rendered_is_told(judged: list[Judged]) -> None:
    """There are too many search domains."""
    silent = [
        shown(each.case, suite, renderer, failure)
        for each in judged
        for (suite, renderer), failure in each.failures.items()
        if ("search", renderer) not in {told[1:] for told in each.case.told}
    ]
    assert silent == []


def test_what_is_lost_is_told(judged: list[Judged]) -> None:
    silent = [
        shown(each.case, suite, renderer, lost)
        for each in judged
        for (suite, renderer), losses in each.lost.items()
        for lost in losses
        if Told(lost.interface, lost.key, renderer) not in each.case.told
    ]
    assert silent == []


def test_what_is_told_is_lost(judged: list[Judged]) -> None:
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
