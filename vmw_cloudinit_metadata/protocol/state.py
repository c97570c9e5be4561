"""The state of the objects of a session as JSON has it, for the next version of the program. Pure.

An object lists in STATE which of its attributes are its state, and the form of each. Whatever is as
in a new object is left out: most lines are idle, and there are thousands of them. What is read is
checked against the forms, so an object never has an attribute of another type or size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

State = dict[str, Any]

_ALWAYS = object()  # equal to nothing: the attribute is never left out


class InvalidState(ValueError):  # noqa: N818 - what a state is
    """A state that this version does not write, or did not in the version before."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of an attribute are written and read; `new` is that of a new object."""

    new: object
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]  # raises InvalidState

    def is_new(self, value: object) -> bool:
        return value == self.new or (self.new == () and not value)

    @property
    def always(self) -> Form:
        """The same, for an attribute that a new object may have set otherwise."""
        return Form(_ALWAYS, self.write, self.read)


class Stateful:
    """Has a state."""

    __slots__ = ()
    STATE: ClassVar[Mapping[str, Form]]

    def state(self) -> State:
        return {
            name.lstrip("_"): form.write(value)
            for name, form in self.STATE.items()
            if not form.is_new(value := getattr(self, name))
        }

    def restore(self, state: object) -> None:
        """Go on from a state, as a new object; raise InvalidState."""
        written = mapping(state)
        for name, form in self.STATE.items():
            key = name.lstrip("_")
            if key in written:
                setattr(self, name, form.read(written.pop(key)))
        if written:
            raise InvalidState(f"{type(self).__name__} has no {', '.join(sorted(written))}")


def mapping(value: object) -> State:
    """Return a copy of a mapping."""
    if not isinstance(value, dict):
        raise InvalidState("expected an object")
    return dict(value)


def items(value: object, most: int) -> list[Any]:
    """Return a list of at most so many."""
    if not isinstance(value, list) or len(value) > most:
        raise InvalidState(f"expected a list of at most {most}")
    return value


def _same(value: Any) -> Any:
    return value


def _checked(kinds: type | tuple[type, ...]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise InvalidState("a value of another type")
        return value

    return read


FLAG = Form(False, _same, _checked(bool))
COUNT = Form(0, _same, _checked(int))
SECONDS = Form(0.0, _same, _checked((int, float)))


def written(data: bytes) -> str:
    """Return bytes as JSON has them: one character each."""
    return data.decode("latin-1")


def octets(most: int) -> Form:
    """Bytes, at most so many."""

    def read(value: Any) -> bytes:
        try:
            data = value.encode("latin-1") if isinstance(value, str) else None
        except UnicodeEncodeError:
            data = None
        if data is None or len(data) > most:
            raise InvalidState(f"expected at most {most} bytes")
        return data

    return Form(b"", written, read)


def text(most: int, new: str | None = "") -> Form:
    """A text of at most so many characters; or None, if a new object has None."""

    def read(value: Any) -> str | None:
        if value is None and new is None:
            return None
        if not isinstance(value, str) or len(value) > most:
            raise InvalidState(f"expected a text of at most {most} characters")
        return value

    return Form(new, _same, read)


def listed(one: Form, most: int) -> Form:
    """A list of values, at most so many."""

    def write(values: Any) -> list[Any]:
        return [one.write(value) for value in values]

    def read(value: Any) -> list[Any]:
        return [one.read(each) for each in items(value, most)]

    return Form((), write, read)


def one_of(objects: Mapping[str, Any], new: object = _ALWAYS) -> Form:
    """One of some objects, by its name."""
    names = {id(value): name for name, value in objects.items()}

    def read(value: Any) -> Any:
        if not isinstance(value, str) or value not in objects:
            raise InvalidState(f"expected one of {', '.join(objects)}")
        return objects[value]

    return Form(new, lambda value: names[id(value)], read)
