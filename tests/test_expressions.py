"""Every regular expression of the package takes time that grows as the text, whatever the text."""

from __future__ import annotations

import ast
import functools
import pkgutil
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import vmw_cloudinit_metadata
from tests.process import run
from vmw_cloudinit_metadata.guest.agent import conf, obstacles, system, texts
from vmw_cloudinit_metadata.guest.image import datasource, kernel, layout, parts
from vmw_cloudinit_metadata.guest.image.tree import Tree
from vmw_cloudinit_metadata.instance.metadata import publickey

PACKAGE = Path(vmw_cloudinit_metadata.__file__).parent
# The square of it takes half a second and more, itself it takes milliseconds.
CHARACTERS = 24_000
LIMIT_S = 0.25

UNITS = [
    *(" ", "\t", "\n", "\r\n", " \n", "\n ", "a", "a ", "A", "0", "00", "-", ".", "a.", "a-", "/"),
    *("'", '"', "\\", "'a", 'a"', '"\\"', "=", "a=", "#", "# ", ":", "a: ", "[", "[ ", "{", "!!"),
    *("://", "%2", "\xff", "\xff\xfa\xe8", "\xff\xff", "\0", ",", "a,", "- ", "\n- ", "\n\n- a"),
]


class Expression(NamedTuple):
    pattern: re.Pattern[Any]
    methods: tuple[str, ...]  # by which it is used


@functools.cache
def expressions() -> list[Expression]:
    """Each of the package once. Not at collection: each process of the tests would look for them,
    and one needs them."""
    return list({(e.pattern.pattern, e.pattern.flags): e for e in found_expressions()}.values())


def found_expressions() -> Iterator[Expression]:
    """Those of modules, and those that stand in calls as a text."""
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    uses = uses_in(sources)
    for module in pkgutil.walk_packages([str(PACKAGE)], f"{vmw_cloudinit_metadata.__name__}."):
        if not module.name.endswith("__main__"):
            found = vars(import_module(module.name)).items()
            named = {name: value for name, value in found if isinstance(value, re.Pattern)}
            yield from (Expression(value, methods_of(uses[name])) for name, value in named.items())
    for source in filter(re.compile(r"\bre\.(?!compile\b)[a-z]+\(").search, sources):
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="re"), attr=attr),
                    args=[ast.Constant(value=str() | bytes() as pattern), *_],
                ) if attr != "compile":
                    flags = re.MULTILINE if "MULTILINE" in ast.dump(node) else 0
                    yield Expression(re.compile(pattern, flags), METHODS.get(attr, ALL))


ALL = ("search", "fullmatch", "findall")
METHODS = {"match": ("match",), "fullmatch": ("fullmatch",), "search": ("search",)}


def uses_in(sources: list[str]) -> dict[str, list[str]]:
    """Of each constant, wherever it stands: the attribute of it, if any."""
    uses: defaultdict[str, list[str]] = defaultdict(list)
    words = re.findall(r"\b([A-Z_\d]+)\b(?:(?=\.(\w+)))?", "\n".join(sources))
    for constant, attribute in words:
        uses[constant].append(attribute)
    return uses


def methods_of(uses: list[str]) -> tuple[str, ...]:
    """By which an expression is used, where the sources tell."""
    used = [attribute for attribute in uses if attribute]
    other = len(uses) - len(used) - 1  # handed on: who knows
    return tuple(METHODS.get(method, ALL)[0] for method in used) if used and not other else ALL


def hostile(pattern: re.Pattern[Any]) -> Iterator[Any]:
    """Long texts of one thing, behind and of the words of the pattern itself."""
    source = pattern.pattern
    text = source.decode("latin-1") if isinstance(source, bytes) else source
    words = re.findall(r"[A-Za-z_:=#!/-]{2,20}", re.sub(r"\\[a-zA-Z]", " ", text))
    words = list(dict.fromkeys(words))[:8]
    for unit in (*UNITS, *words, *(f"{word} " for word in words)):
        for before in ("", *words):
            for behind in ("", "!"):
                line = before + unit * (CHARACTERS // len(unit)) + behind
                yield line.encode("latin-1") if isinstance(source, bytes) else line


def took_s(function: Callable[[], object]) -> float:
    """The CPU time of the quicker of two runs; of one that is quick enough."""
    times: list[float] = []
    while len(times) < 2 and (not times or times[-1] > LIMIT_S):
        before_s = time.process_time()
        function()
        times.append(time.process_time() - before_s)
    return min(times)


def slow_texts(expression: Expression) -> Iterator[tuple[str, Any]]:
    """By which method and on which text it takes too long."""
    for text in hostile(expression.pattern):
        for method in expression.methods:
            search = getattr(expression.pattern, method)
            if took_s(lambda: search(text)) >= LIMIT_S:  # noqa: B023
                yield method, text[:60]


@pytest.mark.slow
def test_expressions_are_linear() -> None:
    firsts = {e.pattern.pattern: next(slow_texts(e), None) for e in expressions()}
    assert {pattern: first for pattern, first in firsts.items() if first} == {}


def test_expressions_are_found() -> None:
    sources = [expression.pattern.pattern for expression in expressions()]
    assert len(sources) > 50
    assert obstacles.COMMENT.pattern in sources
    assert any(isinstance(source, bytes) and b"GRUB_TERMINAL" in source for source in sources)
    assert any(isinstance(source, str) and "P<comment>" in source for source in sources)


# The functions around them, with texts that are longer


BLANKS, LINES = " " * 100_000, "\n" * 100_000
TEXTS = {
    "blanks": BLANKS,
    "lines": LINES,
    "blanks-before-a-word": f"{BLANKS}x",
    "lines-before-a-word": f"{LINES}x",
    "console-and-blanks": f"linux console=ttyS0{BLANKS}x",
    "console-between-blanks": f"linux {BLANKS}console=ttyS0{BLANKS}x\n",
    "consoles": "console=ttyS0 " * 20_000,
    "console-of-commas": f"console=ttyS0{',a' * 100_000}!",
    "quotes": "'\"" * 100_000,
    "setting-and-blanks": f"a: {BLANKS}x{BLANKS}'",
    "setting-in-a-quote": f"a: '{BLANKS}",
    "sources-and-lines": f"datasource_list:{LINES}x",
    "sources-in-open-brackets": "datasource_list: [\n" * 20_000,
    "sources-of-lines": f"datasource_list:{chr(10).join([' - a'] * 50_000)}!",
    "selinux-and-lines": f"SELINUX={LINES}x",
    "selinux-and-blanks": f"SELINUX=enforcing{BLANKS}x",
    "policy-and-blanks": f"policy{BLANKS}x",
    "policies": "policy:\n" * 40_000,
    "devices": "device\n" * 40_000,
    "device-and-blanks": f"#{BLANKS}device{BLANKS}x",
    "grub-words": "terminal_input " * 20_000,
    "shebang": f"#!/{'python' * 50_000}!",
    "shebang-and-blanks": f"#!{BLANKS}/x",
    "unknown-settings": "[agent]\n" + "".join(f"a{i} = 1\n" for i in range(10_000)),
    "sections": "".join(f"[a{i}]\n" for i in range(10_000)),
    "options-of-a-key": 'a="' * 60_000,
    "key-and-blanks": f"ssh-rsa a{BLANKS}\x01",
}
FUNCTIONS: dict[str, Callable[[str, Path], object]] = {
    "without-console": lambda text, _: kernel.without_console(text.encode(), "ttyS0"),
    "grub-serial": lambda text, _: kernel.grub_serial_line(text.encode()),
    "has-list": lambda text, _: datasource.has_list(text),
    "with-policy": lambda text, _: datasource.with_policy(text),
    "with-device": lambda text, _: parts.with_device(text, "/dev/ttyS1"),
    "public-key": lambda text, _: publickey.fault_of(text),
    "agent-pairs": lambda text, _: texts.simple_pairs(text),
    "agent-by-lines": lambda text, _: obstacles.scan_lines(text),
    "agent-settings": lambda _, root: conf.read_config(str(root / "etc/selinux/config")),
    "agent-check": lambda _, root: obstacles.Image(
        system.System(str(root)), conf.defaults(), "/etc/selinux/config"
    ).findings(),
    "selinux": lambda _, root: layout.selinux_type(Tree(root)),
    "python": lambda _, root: layout.python_of(Tree(root)),
}
# Where the functions above look for a text.
PLACES = [
    *("etc/selinux/config", "usr/bin/cloud-init", "etc/cloud/ds-identify.cfg"),
    *(
        "etc/default/grub",
        "boot/grub/grub.cfg",
        "usr/lib/systemd/system/vmw-metadata-agent.service",
    ),
    *("usr/libexec/vmw-metadata-agent", "etc/vmw-metadata-agent.conf", "etc/kernel/cmdline"),
]


def tree_of(text: str, root: Path) -> Path:
    for place in PLACES:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text)
        (root / place).chmod(0o755)
    return root


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_an_image_takes_no_seconds(name: str, tmp_path: Path) -> None:
    root = tree_of(TEXTS[name], tmp_path)
    for function in FUNCTIONS.values():
        before_s = time.process_time()
        function(TEXTS[name], root)
        assert time.process_time() - before_s < 3  # the square takes minutes


@pytest.mark.parametrize(
    "name",
    ["blanks", "lines", "blanks-before-a-word", "lines-before-a-word", "console-between-blanks"],
)
def test_guest_install_with_a_megabyte_of_blanks_ends(name: str, tmp_path: Path) -> None:
    (tmp_path / "boot/grub").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "boot/grub/grub.cfg").write_text(TEXTS[name] * 10)
    ended = run("guest", "install", "--root", str(tmp_path), "--free-console", "ttyS0")
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("line", "without"),
    [
        (b'A="quiet console=ttyS0"\n', b'A="quiet"\n'),
        (b"linux /x console=ttyS0,115200n8  \n", b"linux /x\n"),
        (b"linux /x console=ttyS0", b"linux /x"),
        (b"A='console=ttyS0 quiet' \r\n", b"A='quiet'\r\n"),
        (b"a  b  console=ttyS0\n", b"a  b\n"),
        (b"A=''  # x\n", b"A=''  # x\n"),
    ],
)
def test_line_without_its_console_has_no_blank_at_its_end(line: bytes, without: bytes) -> None:
    assert kernel.without_console(line, "ttyS0") == without


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: b", {"a": "b"}),
        ("a:   'b c'  ", {"a": "b c"}),
        ('a-b_c:\t"x"\r\nd: e: f', {"a-b_c": "x", "d": "e: f"}),
        ("a: 'b", {"a": "'b"}),
        ("a:b\n a: b\n: c\na: ", {}),
        ("a: ''", {}),
    ],
)
def test_lines_of_names_and_texts_are_read_without_pyyaml(text: str, value: object) -> None:
    assert texts.simple_pairs(text) == value


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("datasource_list: [NoCloud, None]\n", ["NoCloud", "None"]),
        ("datasource_list:\n  [NoCloud,\n  None]\n", ["NoCloud", "None"]),
        ("datasource_list:\n- NoCloud\n- None\nx: y\n", ["NoCloud", "None"]),
        ("datasource_list: \n\n  - NoCloud\n\n  - None\n", ["NoCloud", "None"]),
        ("# datasource_list: [x]\n", None),
        ("datasource_list:\nx: [y]\n", None),
    ],
)
def test_list_of_data_sources_is_read_without_pyyaml(text: str, sources: object) -> None:
    assert obstacles.scan_lines(text).get("datasource_list") == sources
