"""SVG charts, placed by percent across and by pixel down: text keeps its size on any screen."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from vmw_cloudinit_metadata.client.report.nodes import element

LEAST_BAR = 2.0  # pixels: one VM in a million is still visible


def picture(height: int, title: str, *shapes: Element) -> Element:
    at = {"role": "img", "aria_label": title, "width": "100%", "height": height}
    return element("svg", element("title", title), *shapes, **at)


def rect(left: float, right: float, top: float, bottom: float, kind: str, title: str) -> Element:
    """Draw a bar from `left` to `right` percent and `top` to `bottom` pixels."""
    x = {"x": f"{left:.3f}%", "width": f"{right - left:.3f}%"}
    y = {"y": f"{top:.1f}", "height": f"{bottom - top:.1f}"}
    return element("rect", element("title", title), **x, **y, class_=kind)


def line(x1: float, x2: float, y1: float, y2: float, kind: str) -> Element:
    x = {"x1": f"{x1:.3f}%", "x2": f"{x2:.3f}%"}
    return element("line", **x, y1=f"{y1:.1f}", y2=f"{y2:.1f}", class_=kind)


def label(x: float, y: float, text: str, kind: str, *, is_left: bool) -> Element:
    """Draw text to the left or right of x percent."""
    side, anchor = (-5, "end") if is_left else (5, "start")
    at = {"x": f"{x:.3f}%", "y": f"{y:.1f}", "dx": side, "text_anchor": anchor}
    return element("text", text, **at, class_=kind)


def tick(x: float, y: float, text: str) -> Element:
    anchor = "start" if x < 4 else "end" if x > 96 else "middle"
    return element("text", text, x=f"{x:.3f}%", y=y, text_anchor=anchor, class_="tick")
