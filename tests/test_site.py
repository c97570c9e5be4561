"""The documents: their links and drawings, and the site that is made of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from packages import documents
from tests.process import CHECKOUT
from vmw_cloudinit_metadata.protocol.phases import PHASES, TRANSITIONS

DOCUMENTS = [
    *CHECKOUT.glob("*.md"),
    *(CHECKOUT / "docs").rglob("*.md"),
    *(CHECKOUT / "examples").rglob("*.md"),
]
SETTINGS = CHECKOUT / "docs/site/mkdocs.yml"


def without_code(document: Path) -> str:
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> list[str]:
    """What the headings are called in links, as GitHub and the site do it."""
    headings = re.findall(r"^#+ (.*)$", without_code(document), re.MULTILINE)
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower() for heading in headings)
    return [re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain]


def links(document: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(document))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def dead_links(place: Path) -> list[str]:
    """The links of all documents of a directory that lead to no file."""
    return [
        f"{document.relative_to(place)}: {link}"
        for document in place.rglob("*.md")
        for link in links(document)
        if not (document.parent / link.partition("#")[0]).exists()
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_links_of_a_packages_documents_lead_to_what_is_beside_them(tmp_path: Path) -> None:
    (tmp_path / "conf").symlink_to(CHECKOUT / "conf")
    (tmp_path / "changelog.gz").touch()
    documents.write(tmp_path, CHECKOUT)
    assert len([*tmp_path.rglob("*.md")]) > 30
    assert dead_links(tmp_path) == []


def test_each_document_is_in_the_navigation_once() -> None:
    named = re.findall(r"^ +- (\S+\.md)$", SETTINGS.read_text(), re.MULTILINE)
    pages = [str(path.relative_to(CHECKOUT / "docs")) for path in (CHECKOUT / "docs").rglob("*.md")]
    outside = [name for name in named if (CHECKOUT / name).exists()]
    assert Counter(named) == Counter([*pages, *outside, "index.md"])


def test_drawing_has_all_phases_and_cues() -> None:
    drawn = re.findall(r">([A-Z_]+)</text>", (CHECKOUT / "docs/images/phases.svg").read_text())
    cues = {cue.name for _, cue in TRANSITIONS}
    assert set(drawn) == {*PHASES, *cues}


@pytest.mark.slow
def test_site_is_built_and_all_its_links_lead_somewhere(tmp_path: Path) -> None:
    """mkdocs checks each link and anchor: `validation` in its settings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(SETTINGS)]
    ended = subprocess.run(
        [*command, "--site-dir", str(tmp_path / "site")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    site = tmp_path / "site"
    assert 'href="../conf/haproxy.cfg"' in (site / "high-availability/index.html").read_text()
    for file in ("conf/haproxy.cfg", "images/page.png", "quickstart/index.html"):
        assert (site / file).is_file()
    # The address in each alert's runbook_url.
    assert 'id="vmwmetadatadown"' in (site / "operations/index.html").read_text()
