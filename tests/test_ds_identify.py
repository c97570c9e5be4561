"""Our reading of ds-identify and the real programs of Debian 12 and 13 decide the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import realdsidentify
from tests.cloudinit import CloudInit
from tests.imagecases import CAUSES, CLOUD, DS_IDENTIFY, Cause, variants
from tests.laws import cases
from vmw_cloudinit_metadata.guest.check.dsidentify import ScriptInput, ScriptReader, identify

OURS = f"{CLOUD}/99-nocloud.cfg"
MAIN = "etc/cloud/cloud.cfg"
QUICK = ("list-as-block", "list-with-comment", "comment-later", "ds", "ci-ds", "quiet")
# In Debian 12 it is the generator that reads this word.
VARIANTS = {name: cause for name, cause in variants() if "cloud-init=disabled" not in cause.words}


@pytest.fixture(scope="module")
def debian_12(cloud_init: CloudInit) -> Path:
    """That of Debian 12."""
    return realdsidentify.program_of(cloud_init.tree)


def both(program: Path, files: dict[str, str], words: str) -> tuple[object, object]:
    """What the real program decides, and what we do."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        real = realdsidentify.decide(program, root / "etc/cloud", words)
    configs = [
        (f"/{n}", files[n]) for n in sorted(files) if n.endswith(".cfg") and n != DS_IDENTIFY
    ]
    given = ScriptInput(configs, files.get(DS_IDENTIFY, ""), words)
    ours = identify(given, ScriptReader.of(program.read_text()))
    return real, realdsidentify.Decided.of(ours.exit_code, ours.written)


def with_ours(cause: Cause) -> dict[str, str]:
    stock = {MAIN: "users: [default]\n", OURS: "datasource_list: [NoCloud, None]\n"}
    return {**stock, **cause.files}


def same(real: object, ours: object) -> None:
    assert isinstance(real, realdsidentify.Decided)
    assert isinstance(ours, realdsidentify.Decided)
    assert real.exit_code == ours.exit_code
    if real.exit_code == 0:
        assert real.written == ours.written


@pytest.mark.parametrize("name", QUICK)
def test_decision_is_that_of_the_program(debian_12: Path, name: str) -> None:
    same(*both(debian_12, with_ours(CAUSES[name]), CAUSES[name].words))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_is_decided_as_by_each_program(any_program: Path, name: str) -> None:
    same(*both(any_program, with_ours(VARIANTS[name]), VARIANTS[name].words))


@pytest.fixture(scope="module", params=["debian-12", "debian-13"])
def any_program(request: pytest.FixtureRequest, debian_tree: Callable[[str], Path]) -> Path:
    return realdsidentify.program_of(debian_tree(request.param))


NAMES = (
    "datasource_list",
    "policy",
    "datasource",
    "NoCloud",
    "nocloud",
    "None",
    "Ec2",
    "user-data",
)
SIGNS = (
    ": ",
    " :",
    ":",
    "[",
    "]",
    ", ",
    ",",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\n- ",
    "#",
    " # ",
    "'",
    '"',
    "\\",
)
PARTS = (
    *("datasource_list: [NoCloud, None]\n", "seedfrom: /\n", "meta-data:\n", "policy: "),
    *("enabled", "disabled\n", "search,notfound=enabled", "report", "\\\n", "\0", "é"),
)
TEXTS = st.lists(st.sampled_from([*NAMES, *SIGNS, *PARTS]), max_size=14).map("".join)
KERNEL_WORDS = (
    *("ds=nocloud", "ds=Ec2", "ds=NoCloud;i=1", "ci.ds=x", "ci.datasource=NoCloud", "ds", "quiet"),
    *("ci.di.policy=enabled", "ci.di.policy=disabled", "ci.di.policy=report", "ci.di.policy="),
    *("cc:{datasource_list: [NoCloud]}", "cc:datasource_list:", "datasource_list", "[", "]", "\\"),
)
WORDS = st.lists(st.sampled_from(KERNEL_WORDS), max_size=3).map(" ".join)


@pytest.mark.slow
@settings(max_examples=cases(150), deadline=None)
@given(first=TEXTS, last=TEXTS, policy=TEXTS, words=WORDS)
def test_any_text_is_decided_as_by_each_program(
    any_program: Path, first: str, last: str, policy: str, words: str
) -> None:
    files = {MAIN: first, f"{CLOUD}/50-last.cfg": last, DS_IDENTIFY: policy}
    same(*both(any_program, files, words))
