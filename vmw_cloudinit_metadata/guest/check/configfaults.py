"""Finds configuration in an image with which cloud-init fails, or which it ignores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vmw_cloudinit_metadata.guest.check.configlayers import CloudConfig
from vmw_cloudinit_metadata.guest.check.finding import ImageFinding
from vmw_cloudinit_metadata.guest.image.tree import Tree

_PACKAGES = (
    "/usr/lib/python3*/dist-packages/cloudinit",
    "/usr/lib/python3*/site-packages/cloudinit",
    "/usr/local/lib/python3*/*-packages/cloudinit",
)


def package_files(tree: Tree, name: str) -> list[str]:
    """Return the paths that a file of cloud-init's Python package has in this image."""
    return [path for package in _PACKAGES for path in tree.glob(f"{package}/{name}")]


def of_files(config: CloudConfig) -> Iterator[ImageFinding]:
    """Yield files of which cloud-init cannot read anything."""
    for place in config.undecodable:
        yield ImageFinding(place, "is not UTF-8: cloud-init fails", "save it as UTF-8")
    for place in config.ignored:
        if place not in config.undecodable:
            yield ImageFinding(
                place, "not a YAML mapping: cloud-init ignores it", "correct it", True
            )


def of_values(tree: Tree, config: CloudConfig) -> Iterator[ImageFinding]:
    """Yield values with which cloud-init fails before it looks for the seed."""
    for path, is_right, expected in _EXPECTED:
        for one in config.get(*path)[:1]:
            if not is_right(one.value):
                key = ": ".join(path)
                yield ImageFinding(
                    one.place, f"{key}: is not {expected}: cloud-init fails", "remove the key"
                )
    for one in config.get("system_info", "distro")[:1]:
        if package_files(tree, "distros/__init__.py") and not _is_distro(tree, one.value):
            yield ImageFinding(
                one.place,
                f"system_info: distro: this cloud-init does not know {one.value!r:.100}",
                "write the name of a distribution that it knows",
            )
    for one in config.get("datasource_pkg_list")[:1]:
        if one.value:
            yield ImageFinding(
                one.place, "datasource_pkg_list: other data sources", "remove the key", True
            )


def _is_distro(tree: Tree, name: object) -> bool:
    return isinstance(name, str) and bool(package_files(tree, f"distros/{name}.py"))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_mapping_or_empty(value: Any) -> bool:
    return not value or isinstance(value, dict)


def _is_mapping_or_text(value: Any) -> bool:
    """A text or list does no harm unless it names what cloud-init looks for."""
    return isinstance(value, dict) or (isinstance(value, (str, list)) and "NoCloud" not in value)


def _is_text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_text_or_empty(value: Any) -> bool:
    return not value or isinstance(value, str)


_EXPECTED: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("conf_d",), _is_text_or_empty, "a text"),
    (("datasource",), _is_mapping_or_text, "a mapping"),
    (("datasource", "NoCloud"), _is_mapping_or_empty, "a mapping"),
    (("datasource", "NoCloud", "fs_label"), _is_text_or_null, "a text"),
    (("system_info",), _is_mapping, "a mapping"),
    (("system_info", "paths"), _is_mapping, "a mapping"),
)
