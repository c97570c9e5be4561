"""The page as a whole. Text from a VM or a server cannot become markup.

The page is a tree whose nodes escape their text; a Content-Security-Policy is the second barrier.
Without Jinja2: the frame would take 33 lines instead of 36, and two more packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any
from xml.etree.ElementTree import Element, tostring

from vmw_cloudinit_metadata.client.report import headline, latency, phase, tables, throughput, words
from vmw_cloudinit_metadata.client.report.nodes import element

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = (files(__package__) / "style.css").read_text("utf-8")


def render(result: Mapping[str, Any]) -> str:
    """Return the page for `result`, any part of which may be missing or out of range."""
    phases = phase.read_phases(result.get("phases") or {})
    body = element(
        "main",
        headline.banner(result),
        headline.tiles(result, phases),
        latency.distributions(phases),
        throughput.over_time(result.get("timeline") or [], words.amount(result.get("seconds"))),
        element(
            "div",
            tables.failures(result),
            latency.percentiles(phases),
            tables.server(result.get("server")),
            tables.client(result.get("client") or {}),
            tables.redial(result.get("redial")),
            tables.hosts(result.get("environment") or {}),
            tables.options(result.get("options") or {}, result.get("command")),
            class_="columns",
        ),
    )
    _, verdict = headline.verdict(result)
    page = element("html", _head(f"{verdict} · load test"), element("body", body), lang="en")
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def _head(title: str) -> Element:
    style = Element("style")
    style.text = _STYLE  # not through `element`, which would join its lines; it is our own text
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        style,
    )
