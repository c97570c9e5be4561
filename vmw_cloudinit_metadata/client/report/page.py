"""The page as a whole, and what locks it: what came from a VM or a server can only become text.

The page is built as a tree; a Content-Security-Policy is the second lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any
from xml.etree.ElementTree import Element, tostring

from vmw_cloudinit_metadata.client.report import headline, latency, phase, tables, throughput
from vmw_cloudinit_metadata.client.report.nodes import element

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = (files(__package__) / "style.css").read_text("utf-8")


def render(result: Mapping[str, Any]) -> str:
    """The page for `result`; any part of it may be missing. Never raises for a number's size."""
    phases = phase.read_phases(result.get("phases") or {})
    body = element(
        "main",
        headline.banner(result),
        headline.tiles(result, phases),
        latency.distributions(phases),
        throughput.over_time(result.get("timeline") or []),
        element(
            "div",
            tables.failures(result),
            latency.percentiles(phases),
            tables.server(result.get("server")),
            tables.client(result.get("client") or {}),
            tables.options(result.get("options") or {}),
            class_="columns",
        ),
    )
    _, verdict = headline.verdict(result)
    page = element("html", _head(f"{verdict} · load test"), element("body", body), lang="en")
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def _head(title: str) -> Element:
    style = Element("style")
    style.text = _STYLE  # not through `element`: it has lines, and they are ours
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        style,
    )
