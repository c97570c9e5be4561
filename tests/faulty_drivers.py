"""Drivers that break the contract, each in one way; `known` VMs are web1 and web2."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from vmw_cloudinit_metadata import Driver, DriverOptions, InstanceData, Machine

NAMES = ("web1", "web2")


def data_of(name: str) -> InstanceData:
    return InstanceData.from_mapping({"metadata": {"instance-id": name}})


class Right(Driver):
    """Does everything as it should."""

    def get_instance(self, machine: Machine) -> Any:
        return data_of(machine.name) if machine.name in NAMES else None


class Tokens(Right):
    """Does so with tokens."""

    def get_instance(self, machine: Machine) -> Any:
        found = super().get_instance(machine)
        return found and replace(found, token=machine.name)

    def still_holds(self, token: Any) -> Any:
        return token in NAMES


class ReturnsDict(Right):
    def get_instance(self, machine: Machine) -> Any:
        return {"metadata": {}} if machine.name in NAMES else None


class ReturnsCoroutine(Right):
    async def _find(self, machine: Machine) -> Any:
        return super().get_instance(machine)

    def get_instance(self, machine: Machine) -> Any:
        return self._find(machine)


class ReturnsText(Right):
    def get_instance(self, machine: Machine) -> Any:
        return "metadata: {}" if machine.name in NAMES else None


class RaisesForUnknown(Right):
    def get_instance(self, machine: Machine) -> Any:
        return data_of({name: name for name in NAMES}[machine.name or ""])


class KnowsEverybody(Right):
    def get_instance(self, machine: Machine) -> Any:
        return data_of(machine.name or "nobody")


class NeedsName(Right):
    def get_instance(self, machine: Machine) -> Any:
        return super().get_instance(machine) if machine.name.lower() else None  # type: ignore[union-attr]


class BreaksOnNul(Right):
    def get_instance(self, machine: Machine) -> Any:
        if "\0" in (machine.name or ""):
            raise ValueError("embedded null byte")
        return super().get_instance(machine)


class TakesPatterns(Right):
    def get_instance(self, machine: Machine) -> Any:
        return data_of("web1") if machine.name == "*" else super().get_instance(machine)


class SharesState(Right):
    _name: str | None = None

    def get_instance(self, machine: Machine) -> Any:
        self._name = machine.name
        time.sleep(0.001)
        return data_of(self._name) if machine.name in NAMES and self._name else None


class HangsForUnknown(Right):
    def get_instance(self, machine: Machine) -> Any:
        if machine.name == "unknown":
            time.sleep(10)
        return super().get_instance(machine)


class HoldsNothing(Tokens):
    def still_holds(self, token: Any) -> Any:  # noqa: ARG002
        return False


class HoldsText(Tokens):
    def still_holds(self, token: Any) -> Any:
        return str(token)


class YieldsTooFew(Tokens):
    def which_hold(self, tokens: Any) -> Iterator[Any]:
        yield from [True] * (len(tokens) - 1)


class YieldsTooMany(Tokens):
    def which_hold(self, tokens: Any) -> Iterator[Any]:
        yield from [True] * (len(tokens) + 1)


class BlocksTheHub(Tokens):
    def held_at(self, token: Any, time_s: float) -> bool:  # noqa: ARG002
        time.sleep(0.02)
        return False


class KnowsTheFuture(Tokens):
    def held_at(self, token: Any, time_s: float) -> bool:  # noqa: ARG002
        return True


class NamesAsText(Right):
    def document_names(self) -> Any:
        return "SECURITYDATA"


class NamesInLowerCase(Right):
    def document_names(self) -> Any:
        return {"securitydata"}


class HidesDocument(Right):
    def get_instance(self, machine: Machine) -> Any:
        found = super().get_instance(machine)
        return found and replace(found, documents={"SECURITYDATA": b"x"})


class ExplainsNothing(Right):
    def explain(self, machine: Machine) -> Any:
        pass


class ChecksByValue(Right):
    def check(self) -> Any:
        return "the database is down"


class ValidatesWithText(Right):
    def validate(self) -> Any:
        yield "web1: wrong"


class TablesAsList(Right):
    def tables(self) -> Any:
        return [self]


class TableWithoutBytes(Right):
    def tables(self) -> Any:
        return {"cache": {}}


class NotesAsText(Right):
    def notes(self) -> Any:
        return "all is well"


class StartsThread(Right):
    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._ended = threading.Event()
        threading.Thread(target=self._ended.wait, daemon=True).start()

    def close(self) -> None:
        self._ended.set()


class Connects(Right):
    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._pair = socket.socketpair()

    def close(self) -> None:
        for end in self._pair:
            end.close()


class LeavesThread(Right):
    ended = threading.Event()

    def get_instance(self, machine: Machine) -> Any:
        if not any(thread.name == "left" for thread in threading.enumerate()):
            threading.Thread(target=self.ended.wait, args=(20,), name="left", daemon=False).start()
        return super().get_instance(machine)


class HangsAtEnd(Right):
    def close(self) -> None:
        time.sleep(10)


class Patches(Right):
    def get_instance(self, machine: Machine) -> Any:
        setattr(socket, "socket", _Socket)  # noqa: B010
        return super().get_instance(machine)


class _Socket(socket.socket):
    pass


class RefusesByKeyError(Right):
    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._url = options["url"]


class ShowsSecret(Right):
    def __repr__(self) -> str:
        return f"ShowsSecret({self.options['password']})"


class IgnoresOptions(Right):
    class Options(DriverOptions):
        url: str = ""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options


class Unprepared(Right):
    def __init__(self, options: Mapping[str, Any]) -> None:
        pass


class Async(Right):
    async def get_instance(self, machine: Machine) -> Any:  # type: ignore[override]
        return super().get_instance(machine)


class SurveysWithText(Right):
    def survey(self) -> Any:
        yield "web1: no address"


class CountsByNumber(Right):
    def census(self) -> Any:
        return 2


class TracesByText(Right):
    def trace(self, machine: Machine) -> Any:
        return f"metadata.hostname: {machine.name}"


class RevisesByText(Right):
    def revision(self) -> Any:
        return "2026-01-01"


class ComputedDefaults(Right):
    class Options(DriverOptions):
        odd: int = Field(default_factory=lambda others: int(others["even"]) + 1)
        names: list[str] = Field(default_factory=list)


class AsyncHolds(Tokens):
    async def still_holds(self, token: Any) -> Any:  # type: ignore[override]
        return bool(token)


class Generator(Right):
    def get_instance(self, machine: Machine) -> Any:
        yield super().get_instance(machine)
