"""LookupCheck: what a driver answers to VMs, known, unknown and hostile ones."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.contract import ContractError
from vmw_cloudinit_metadata.drivers.driver import Driver, UnderWay
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import RESERVED_DOCUMENTS, InstanceData
from vmw_cloudinit_metadata.protocol.vmware import MAX_NAME_BYTES, Machine
from vmw_cloudinit_metadata.testing.driverfaults import (
    CALL_S,
    THREAD_NAME,
    DriverFaults,
    Late,
    cut,
    described,
    in_thread,
)

LOOK_S = 1.0  # of `still_holds`
HUB_S = 0.005  # of `held_at`; the best of several, since the system may be busy
_TRIES = 5
_THREADS = 8
_ROUNDS = 3  # of each thread
_FAR_S = 3600.0

# Anyone who can rename a VM chooses its name. None of these is a VM's.
HOSTILE_NAMES = (
    *("../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "a\\b", "-rf", "~", "$HOME"),
    *("*", "%", "_", "?", "[a-z]*", ".*", "' OR '1'='1", "'; DROP TABLE vms; --", '"', "`id`"),
    *("*)(uid=*", "{{7*7}}", "${jndi:ldap://x}", "%s%n", "\0", "a\nb", "\x1b[2J", "\u202egnp"),
    *(" ", "ï", "I\u0307", "\U0001f4a3", "null", "true", "0", "x" * MAX_NAME_BYTES),
)


class LookupCheck:
    """Checks one driver; adds to `findings`."""

    def __init__(
        self,
        findings: DriverFaults,
        driver: Driver,
        known: Sequence[Machine],
        unknown: Machine | None,
    ) -> None:
        self._findings = findings
        self._driver = driver
        self._known = known
        self._unknown = unknown

    def run(self) -> dict[Machine, object]:
        """Return the tokens of the known VMs' answers."""
        answers = self._check_known()
        if answers:
            self._check_threads(answers)
        tokens = {one: instance.token for one, instance in answers.items()}
        tokens = {one: token for one, token in tokens.items() if token is not None}
        for one, token in tokens.items():
            self._check_token(one, token)
        self._check_unknown()
        self._check_hostile()
        return tokens

    # Look-ups

    def _check_known(self) -> dict[Machine, InstanceData]:
        answers = {}
        names = self._findings.call(
            "document_names",
            lambda: contract.names(self._driver, self._driver.document_names()),
            CALL_S,
        )
        for one in self._known:
            instance = self._look_up(one, "a known VM")
            if instance is None:
                continue
            try:
                _documents(one, instance)
            except InvalidInstanceData as error:
                self._findings.add("get_instance", f"returned data that {one} cannot get: {error}")
                continue
            answers[one] = instance
            self._check_trace(one)
            further = set(instance.documents) - (names or set()) - RESERVED_DOCUMENTS
            if names is not None and further:
                self._findings.add("document_names", f"lacks {', '.join(sorted(further))} of {one}")
        return answers

    def _check_trace(self, one: Machine) -> None:
        self._findings.call(
            "trace",
            lambda: list(contract.sentences(self._driver, "trace", self._driver.trace(one))),
            CALL_S,
            allowed=(DriverError,),  # it has no trace
        )

    def _look_up(self, one: Machine, what: str) -> InstanceData | None:
        try:
            instance = in_thread(lambda: _instance(self._driver, one), CALL_S)
        except Late:
            self._findings.add("get_instance", f"did not return within {CALL_S:g} s for {one}")
        except ContractError as error:
            self._findings.faults.append(str(error))
        except Exception as error:  # a driver is foreign code
            self._findings.add("get_instance", f"raises {described(error)} for {what}, {one}")
        else:
            if instance is None:
                self._findings.add("get_instance", f"returned None for {what}, {one}")
            return instance  # type: ignore[no-any-return]
        return None

    def _check_threads(self, answers: Mapping[Machine, InstanceData]) -> None:
        """Look up all known VMs in several threads at once, and compare the answers."""
        expected = {one: _documents(one, instance) for one, instance in answers.items()}
        problems: list[str] = []
        barrier = threading.Barrier(_THREADS)

        def look_up_all(offset: int) -> None:
            barrier.wait(CALL_S)
            for number in range(_ROUNDS * len(self._known)):
                one = self._known[(number + offset) % len(self._known)]
                if (
                    one in expected
                    and _documents(one, _instance(self._driver, one)) != expected[one]
                ):
                    problems.append(f"returned other data for {one}")

        def guarded(offset: int) -> None:
            try:
                look_up_all(offset)
            except (Exception, SystemExit) as error:  # a driver is foreign code
                problems.append(f"raises {described(error)}")

        threads = [
            threading.Thread(target=guarded, args=(n,), name=f"{THREAD_NAME} {n}", daemon=True)
            for n in range(_THREADS)
        ]
        for thread in threads:
            thread.start()
        end_s = time.monotonic() + CALL_S * _ROUNDS * max(len(self._known), 1)
        for thread in threads:
            thread.join(max(end_s - time.monotonic(), 0))
        if any(thread.is_alive() for thread in threads):
            problems.append("did not return")
        if problems:
            self._findings.add(
                "get_instance", f"{problems[0]} when {_THREADS} threads call it at once"
            )

    def _check_unknown(self) -> None:
        if self._unknown is None:
            return
        one = self._unknown
        try:
            instance = in_thread(lambda: _instance(self._driver, one), CALL_S)
        except Late:
            self._findings.add(
                "get_instance", f"did not return within {CALL_S:g} s for an unknown VM"
            )
            return
        except ContractError as error:
            self._findings.faults.append(str(error))
            return
        except Exception as error:  # a driver is foreign code
            self._findings.add(
                "get_instance", f"raises {described(error)} for an unknown VM: return None"
            )
            return
        if instance is not None:
            self._findings.add(
                "get_instance", f"returned data for {one}, an unknown VM: return None"
            )
        self._findings.call(
            "explain",
            lambda: contract.text(self._driver, "explain", self._driver.explain(one)),
            CALL_S,
        )

    def _check_hostile(self) -> None:
        unknown_uuid = str(uuid.uuid4())
        for name in HOSTILE_NAMES:
            self._check_one(Machine(name=name, peer_address="192.0.2.1"))
        uris = ("my-metadata?a=%00&a[]=1&=", "my-metadata?" + "x=../..&" * 100)
        self._check_one(Machine(vc_uuid=unknown_uuid), "without a name")
        self._check_one(Machine(bios_uuid=unknown_uuid), "with a BIOS UUID only")
        self._check_one(Machine(location_uuid=unknown_uuid), "with a location only")
        for uri in uris:
            strange = replace(self._known[0], service_uri=uri, direction="server")
            self._check_one(strange, "with a strange query", may_be_known=True)

    def _check_one(self, one: Machine, what: str = "", *, may_be_known: bool = False) -> None:
        """Look up a VM that has no data, and must cause no other error than the interface's."""
        about = f"a VM {what}" if what else f"the name {cut(repr(one.name))}"
        try:
            instance = in_thread(lambda: _instance(self._driver, one), CALL_S)
        except Late:
            self._findings.add("get_instance", f"did not return within {CALL_S:g} s for {about}")
        except ContractError as error:
            self._findings.faults.append(str(error))
        except (DriverError, InvalidInstanceData):
            pass
        except Exception as error:  # a driver is foreign code
            self._findings.add(
                "get_instance", f"raises {described(error)} for {about}: return None"
            )
        else:
            if instance is not None and self._unknown is not None and not may_be_known:
                self._findings.add("get_instance", f"returned data for {about}: return None")

    # Tokens

    def _check_token(self, one: Machine, token: object) -> None:
        holds = self._findings.call(
            "still_holds",
            lambda: contract.truth(self._driver, "still_holds", self._driver.still_holds(token)),
            LOOK_S,
        )
        if holds is False:
            self._findings.add("still_holds", f"returned False for the new token of {one}")
        self._findings.call(
            "which_hold",
            lambda: list(
                contract.truths(self._driver, [token] * 2, self._driver.which_hold([token] * 2))
            ),
            2 * LOOK_S,
        )
        self.check_held(one, token)

    def check_held(self, one: Machine, token: object) -> None:
        """Check that `held_at`, which runs in the server's event loop, does not block."""
        took_s: list[float] = []
        for _ in range(_TRIES):
            now_s = time.monotonic()
            self._findings.call(
                "held_at",
                lambda: contract.truth(self._driver, "held_at", self._driver.held_at(token, now_s)),  # noqa: B023
                LOOK_S,
                took_s.append,
            )
        if took_s and min(took_s) > HUB_S:
            self._findings.add(
                "held_at",
                f"took {min(took_s) * 1000:.0f} ms, expected at most {HUB_S * 1000:.0f} ms: it "
                "runs in the server's event loop and must not block",
            )
        future_s = time.monotonic() + _FAR_S
        if (
            self._findings.call("held_at", lambda: self._driver.held_at(token, future_s), LOOK_S)
            is True
        ):
            self._findings.add(
                "held_at", f"returned True for {one} at a time that is still to come"
            )


def _instance(driver: Driver, one: Machine) -> InstanceData | None:
    """Look a VM up as the server does: again, once another thread has done the same work."""
    while True:
        try:
            return contract.instance(driver, driver.get_instance(one))
        except UnderWay as error:
            while not error.work.is_over:
                time.sleep(0.001)


def _documents(one: Machine, instance: InstanceData | None) -> Mapping[str, bytes] | None:
    return None if instance is None else nocloud.render(instance, one)
