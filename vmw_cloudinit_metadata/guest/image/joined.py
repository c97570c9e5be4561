"""What ships for guests: the modules of a program joined into one readable Python file.

Each module becomes a section, headed by its name and docstring, after the modules that it imports.
Imports of the standard library are merged at the top. The text depends on the modules alone, so a
checkout, an installed wheel and `guest print` give the same bytes. Reads the package's files.
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

_PACKAGE = "vmw_cloudinit_metadata.guest"
_LAST = "commandline"  # imports all other modules of the agent, directly or not
_LAST_FOR_WINDOWS = "metadataservice"
_SHEBANG = "#!/usr/bin/env python3\n"
_LINE_CHARS = 100  # a longer import has a line for each name


class JoinError(Exception):
    """The modules cannot be joined into one file."""


Import = ast.Import | ast.ImportFrom


@dataclass(frozen=True, slots=True)
class Section:
    """A module without its docstring and imports."""

    name: str
    docstring: str
    uses: Sequence[str]  # other modules of the package
    imports: Sequence[Import]  # of libraries
    defines: frozenset[str]
    code: str

    @classmethod
    def parse(cls, name: str, text: str) -> Section:
        """Raise JoinError if the module's imports cannot be merged with others."""
        tree = ast.parse(text)
        imports = [node for node in tree.body if isinstance(node, Import)]
        code = tree.body[1 + len(imports) :]
        if any(isinstance(node, Import) for node in code):
            raise JoinError(f"{name}: an import follows other code")
        if any(alias.asname for node in imports for alias in node.names):
            raise JoinError(f"{name}: an import with `as`")
        end = tree.body[len(imports)].end_lineno
        return cls(
            name,
            ast.get_docstring(tree) or "",
            [module.rpartition(".")[2] for module in map(_module, imports) if _is_ours(module)],
            [node for node in imports if not _is_ours(_module(node))],
            frozenset(_defined(code)),
            "\n".join(text.split("\n")[end:]).strip("\n"),
        )

    def __str__(self) -> str:
        heading = f"{self.name}.py\n\n{self.docstring}".splitlines()
        return "\n".join(f"# {line}".rstrip() for line in heading) + f"\n\n\n{self.code}"


@functools.cache
def agent() -> str:
    """Return the agent's file; raise JoinError."""
    return joined(_reader("agent"))


@functools.cache
def cloudbase_init() -> str:
    """Return the file for cloudbase-init, which uses modules of the agent; raise JoinError."""
    return joined(_reader("windows", "agent"), _LAST_FOR_WINDOWS).removeprefix(_SHEBANG)


def _reader(*rooms: str) -> Callable[[str], str]:
    """Return a function that reads a module of the first room that has it."""
    places = [resources.files(_PACKAGE) / room for room in rooms]

    def read(name: str) -> str:
        files = (place / f"{name}.py" for place in places)
        return next(file for file in files if file.is_file()).read_text("utf-8")

    return read


def joined(read: Callable[[str], str], last: str = _LAST) -> str:
    """Return the file of `last` and all that it needs, given how to read one; raise JoinError."""
    sections = list(_in_order(last, read, set()))
    _refuse_collisions(sections)
    imports = _merged(node for section in sections for node in section.imports)
    docstring = ast.get_docstring(ast.parse(read("__init__")))
    head = f'{_SHEBANG}"""{docstring}\n"""\n\n' + "\n".join(imports)
    return "\n\n\n".join([head, *map(str, sections)]) + "\n"


def _in_order(name: str, read: Callable[[str], str], seen: set[str]) -> Iterator[Section]:
    """Yield the modules that `name` needs, then the module itself."""
    seen.add(name)
    section = Section.parse(name, read(name))
    for used in section.uses:
        if used not in seen:
            yield from _in_order(used, read, seen)
    yield section


def _module(node: Import) -> str:
    return node.module or "" if isinstance(node, ast.ImportFrom) else ""


def _is_ours(module: str) -> bool:
    return module.startswith(f"{_PACKAGE}.")


def _defined(code: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield the global names of a module."""
    for node in code:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def _merged(nodes: Iterable[Import]) -> list[str]:
    """Return one statement for each imported module, sorted as ruff sorts them."""
    modules = set[str]()
    names = defaultdict[str, set[str]](set)
    for node in nodes:
        found = {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            modules |= found
        else:
            names[_module(node)] |= found
    plain = [f"import {module}" for module in sorted(modules)]
    return [*plain, *(_from(module, sorted(names[module])) for module in sorted(names))]


def _from(module: str, names: Sequence[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= _LINE_CHARS:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _refuse_collisions(sections: Iterable[Section]) -> None:
    """Raise JoinError if a name means two things in the whole file."""
    owners = dict[str, str]()
    for section in sections:
        imported = {alias.name for node in section.imports for alias in node.names}
        meanings = dict.fromkeys(section.defines, section.name) | dict.fromkeys(imported, "")
        for name, owner in meanings.items():
            if owners.setdefault(name, owner) != owner:
                raise JoinError(f"{name} is defined twice: {section.name} and {owners[name]}")
