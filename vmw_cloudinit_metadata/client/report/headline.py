"""The top of the page: the verdict, and the most important figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from vmw_cloudinit_metadata.client.report import words
from vmw_cloudinit_metadata.client.report.nodes import element
from vmw_cloudinit_metadata.client.report.phase import Phase

_SIGNS = {"good": "M6 12.5l4 4 8-9", "bad": "M7 7l10 10M17 7L7 17", "doubt": "M12 6v7.5M12 17v.5"}
_BOTTLENECK = (
    "The client was the bottleneck: it had no CPU left, so the times include its own delays,"
    " and the server can do more than this. Use more client processes, or another machine."
)


def verdict(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the tone (good, bad or doubt) and the text."""
    boots, failed = words.amount(result.get("boots")), _failed_in(result)
    if failed:
        return "bad", words.plural(failed, "failure")
    if not boots:
        return "doubt", "No VM booted"
    if _is_bottleneck(result):
        return "doubt", "All served, but the client was the bottleneck"
    if boots == 1:
        return "good", "The one boot was served"
    return "good", f"All {words.whole(boots)} served"


def _failed_in(result: Mapping[str, Any]) -> float:
    return sum(map(words.amount, (result.get("failures") or {}).values()))


def _is_bottleneck(result: Mapping[str, Any]) -> bool:
    return bool((result.get("client") or {}).get("is_bottleneck"))


def banner(result: Mapping[str, Any]) -> Element:
    tone, text = verdict(result)
    path = element("path", d=_SIGNS[tone])
    sign = element("svg", path, viewBox="0 0 24 24", aria_hidden="true")
    texts = [element("h1", text), element("p", *_summary(result))]
    if _is_bottleneck(result):
        texts.append(element("p", _BOTTLENECK))
    return element("header", sign, element("div", *texts), class_=tone)


def _summary(result: Mapping[str, Any]) -> Iterable[Element]:
    boots, took_ms = words.amount(result.get("boots")), 1000 * words.amount(result.get("seconds"))
    yield element("strong", words.clipped(result.get("scenario") or "load test"), " ")
    yield element("span", f"{words.plural(boots, 'boot')} in {words.duration(took_ms)} ")
    if result.get("started"):
        yield element("span", f"started {words.clipped(result['started'])}")


def tiles(result: Mapping[str, Any], phases: Sequence[Phase]) -> Element:
    shown = [
        ("boots", words.whole(words.amount(result.get("boots")))),
        ("boots a second", words.plain(words.amount(result.get("rate")))),
        ("failures", words.whole(_failed_in(result))),
    ]
    boot = next((phase.marks for phase in phases if phase.name == "boot"), None)
    if boot is not None:
        shown += [(f"boot {mark}", words.duration(boot.get(mark))) for mark in ("p50", "p99")]
    cpu_ms = words.number((result.get("server") or {}).get("cpu_ms_per_boot"))
    if cpu_ms is not None:
        shown.append(("server CPU a boot", words.duration(cpu_ms)))
    each = [element("div", element("dt", name), element("dd", value)) for name, value in shown]
    return element("dl", *each, class_="tiles")
