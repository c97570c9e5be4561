"""What the site needs beside docs/: files elsewhere in the checkout to which the documents link.

README.md is the first page. Other files keep their paths: conf/haproxy.cfg is /conf/haproxy.cfg.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

CHECKOUT = Path(__file__).parents[2]
FIRST = "README.md"
LINK = re.compile(r"(\]\(|src=\")(?![a-z]+:|#)([^)#\s\"]+)")


def slug(heading: str, separator: str = "-") -> str:
    """Return a heading's anchor, which is the same where GitHub renders the document."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def place_of(path: str) -> str:
    """Return where a file of the checkout is in the site."""
    return "index.md" if path == FIRST else path.removeprefix("docs/")


def origin_of(place: str) -> str:
    """Return where a page of the site is in the checkout."""
    if place == "index.md":
        return FIRST
    return f"docs/{place}" if (CHECKOUT / "docs" / place).exists() else place


def linked(page: str, link: str) -> str:
    """Return the path in the checkout to which a page of it links; a directory's README.md."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if (CHECKOUT / path / FIRST).is_file():
        return f"{path}/{FIRST}"
    return path


def outside() -> set[str]:
    """Return the files outside of docs/ to which the documents lead."""
    found: set[str] = set()
    waiting = [FIRST, *(str(p.relative_to(CHECKOUT)) for p in (CHECKOUT / "docs").rglob("*.md"))]
    while waiting:
        page = waiting.pop()
        for _, link in LINK.findall((CHECKOUT / page).read_text()):
            path = linked(page, link)
            if path.startswith("docs/") or path in found or not (CHECKOUT / path).is_file():
                continue
            found.add(path)
            if path.endswith(".md"):
                waiting.append(path)
    return found | {FIRST}


def on_config(config: Any) -> None:
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug


def on_files(files: Files, config: Any) -> None:
    for path in sorted(outside()):
        source = str(CHECKOUT / path)
        files.append(File.generated(config, place_of(path), abs_src_path=source))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to where the files are in the site."""
    place = page.file.src_uri
    origin = origin_of(place)

    def moved(match: re.Match[str]) -> str:
        target = place_of(linked(origin, match[2]))
        return match[1] + posixpath.relpath(target, posixpath.dirname(place) or ".")

    return LINK.sub(moved, markdown)
