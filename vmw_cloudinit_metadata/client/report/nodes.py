"""The HTML and SVG nodes of the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element

from vmw_cloudinit_metadata.protocol.printable import one_line


def element(tag: str, *children: Element | str, **attributes: object) -> Element:
    """Make a node, with its text escaped; `stroke_width=` becomes stroke-width, `class_=` class."""
    safe = {k.rstrip("_").replace("_", "-"): one_line(str(v)) for k, v in attributes.items()}
    node = Element(tag, safe)
    for child in children:
        if isinstance(child, Element):
            node.append(child)
        elif len(node):
            node[-1].tail = (node[-1].tail or "") + one_line(child)
        else:
            node.text = (node.text or "") + one_line(child)
    return node


def section(title: str, *children: Element) -> Element:
    return element("section", element("h2", title), *children)


def note(*text: Element | str) -> Element:
    return element("p", *text, class_="note")


def table(
    caption: str, titles: Sequence[str], rows: Iterable[Sequence[Element | str]], kind: str
) -> Element:
    """Make a table with row headings in its first column; a wide table scrolls, not the page."""
    node = element("table", element("caption", caption), class_=kind)
    if titles:
        cells = [element("th", title, scope="col") for title in titles]
        node.append(element("thead", element("tr", *cells)))
    body = element("tbody")
    for first, *others in rows:
        cells = [element("td", other) for other in others]
        body.append(element("tr", element("th", first, scope="row"), *cells))
    node.append(body)
    return element("div", node, class_="scroll", role="region", tabindex=0, aria_label=caption)
