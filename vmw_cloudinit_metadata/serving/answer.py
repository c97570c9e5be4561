"""Answer, or Failure: what a machine gets, and how a driver is called for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import inf

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.answers.lastgood import reason_in
from vmw_cloudinit_metadata.drivers.contract import ContractError
from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError, UnderWay, Work
from vmw_cloudinit_metadata.drivers.drivererror import SecretUnavailableError
from vmw_cloudinit_metadata.drivers.foreignerrors import hidden, reason_of
from vmw_cloudinit_metadata.instance import hostnames, nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.layering.secretreference import SecretProblem
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.values.dump import json_text
from vmw_cloudinit_metadata.monitoring import digests
from vmw_cloudinit_metadata.process.budget import size_of
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.protocol.packet import ErrorCode, Packet
from vmw_cloudinit_metadata.protocol.printable import shortened
from vmw_cloudinit_metadata.protocol.servedboot import NOT_CALLED, ServedIdentity
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.driverlog import log_error

MAX_REASON_CHARACTERS = 4096  # of a failure or a stale answer, for the operator
_ABOUT_BYTES = 3072  # of an answer beside its texts: token, objects, its place in the cache
_NEVER_S = -inf

# The token of an answer that holds until its `seen_s`, by the driver's cache_ttl.
BY_TIME = object()

# Documents that never have a secret.
SHOWN = frozenset({"METADATA", "NETWORKDATA"})

_NEWER = "another worker has given a newer answer than the last good one here"

# The messages for guests: they say what to do, and reveal nothing secret.
MESSAGES: Mapping[ErrorCode, str] = {
    "not-found": "The server has no data for this VM; ask an administrator to add it",
    "invalid": "This VM's data is invalid; ask an administrator to check the server log",
    "failed": "The server cannot read its data now; try again later",
    "timeout": "The server did not answer in time; try again later",
    "unknown-request": "No VM has such a document; ask for another one",
    "used": "This document is served once, and was; a new instance-id lets the VM have it again",
    "closed": "User-data is served for some time after the first boot only; keep what the VM has, "
    "or ask an administrator",
    "refused": "The server refuses this to this VM; ask an administrator to check the server log",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of an answer, for the operator."""

    matched_by: str = ""
    sources: tuple[str, ...] = ()
    problem: str = ""
    digest: str = ""  # the packet RESPONSE_DIGEST
    duplicates: tuple[str, ...] = ()  # values that another VM has too and should not
    is_secret: bool = False  # never written to disk
    secrets: tuple[str, ...] = ()  # whose values it has: it is never given again
    identity: ServedIdentity = NOT_CALLED  # how the documents call the VM

    @property
    def shown_digest(self) -> str:
        """The digest for operators. By that of a secret, short ones could be guessed."""
        return digests.without_hashes(self.digest) if self.is_secret else self.digest


@dataclass(slots=True, eq=False, weakref_slot=True)
class Answer:
    """A serialized packet for each document, and for the digest."""

    packets: Mapping[str, bytes]
    origin: Origin
    token: object = None
    size: int = 0  # bytes, in the cache
    # When the last look began that found it unchanged; with BY_TIME, until when it holds.
    seen_s: float = _NEVER_S
    register_stamp: int = -1  # of the register, when no newer answer was in it
    instance_id: str = ""
    once: frozenset[str] = frozenset()  # documents, each of which must be claimed before
    unread: frozenset[str] = frozenset()  # documents without their text: they may have secrets
    opened_s: float | None = None  # by time.monotonic(): when the user-data window was
    is_had: bool = False  # the ledger knows that its VM has had something in the window


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a machine gets no answer: a key of MESSAGES, and the reason for the operator's log."""

    error: ErrorCode
    reason: str
    secret: SecretProblem | None = None  # why a secret could not be had, if that is the reason
    is_trouble: bool = True  # False: the VM has had the document before
    message: str = ""  # for the guest, in place of that in MESSAGES

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", shortened(self.reason, MAX_REASON_CHARACTERS))


Outcome = Answer | Failure


def outdated(failure: Failure) -> Failure:
    """Return the failure of a VM whose last good answer is not the newest."""
    if failure.reason.endswith(_NEWER):
        return failure
    return replace(failure, reason=f"{failure.reason}; {_NEWER}")


def failure_behind(answer: Answer) -> Failure:
    """Return the failure that an older answer of the driver stands for.

    It has a token while the data is invalid, and none while the source is out of reach.
    """
    reason = reason_in(answer.origin.problem)
    return Failure("failed" if answer.token is None else "invalid", reason)


def error_packet(document: str, error: ErrorCode, message: str = "") -> bytes:
    request = packet.REQUEST + document
    body = json_text({"request": request, "error": error, "message": message or MESSAGES[error]})
    return packet.serialize(Packet("RESPONSE_ERROR", body.encode()))


def response_packet(document: str, body: bytes) -> bytes:
    return packet.serialize(Packet(packet.RESPONSE + document, body))


def look_up(driver: Driver, machine: Machine, *, with_secrets: bool = False) -> Outcome | Work:
    """Call the driver, in this thread; return the outcome, or the work to wait for.

    Without secrets, the documents that may have any are `unread`. Never raise.
    """
    if machine.is_anonymous:
        return Failure("not-found", "the VM has sent neither a name nor a UUID")
    try:
        get = driver.get_instance if with_secrets else driver.get_without_secrets
        instance = contract.instance(driver, get(machine))
        if instance is None:
            return Failure("not-found", _reason(driver, machine))
        if instance.problem:
            instance = replace(instance, problem=hidden(driver, instance.problem))
        return _answer(instance, machine)
    except UnderWay as error:
        return error.work
    except InvalidInstanceData as error:
        return Failure("invalid", str(error))
    except SecretUnavailableError as error:
        is_late = error.problem == "late"
        reason = reason_of(driver, error)
        return Failure("timeout" if is_late else "failed", reason, error.problem)
    except DriverError as error:
        return Failure("failed", reason_of(driver, error))
    except BaseException as error:  # a driver is foreign code, and asyncio's are no Exception
        log_error(driver, "get_instance", error, machine)
        return Failure("failed", reason_of(driver, error))


def prepared(driver: Driver, machine: Machine, time_s: float) -> Answer | None:
    """Return the answer that `look_up` would have returned at that time, if it was prepared."""
    if driver.prepared is None:
        return None
    instance = driver.prepared.find(machine, time_s)
    if instance is None:
        return None
    try:
        return _answer(instance, machine)
    except InvalidInstanceData:  # a look-up tells the reason
        return None


def _answer(instance: InstanceData, machine: Machine) -> Answer:
    """Raises InvalidInstanceData."""
    documents = nocloud.render(instance, machine)
    unread = _unread(documents) if instance.lacks_secrets else frozenset()
    packets = _packets(documents, instance.once | unread)
    packets.update(dict.fromkeys(unread - {"DIGEST"}, b""))
    problem = shortened(instance.problem, MAX_REASON_CHARACTERS)
    digest = packets["DIGEST"].decode()
    origin = Origin(
        *(instance.matched_by, instance.sources, problem, digest, instance.duplicates),
        is_secret=instance.is_secret,
        secrets=instance.secrets,
        identity=hostnames.identity_of(instance, machine),
    )
    about = (origin.sources, origin.problem, origin.digest, origin.identity)
    texts = (machine.name, machine.service_uri, *about)
    return Answer(
        packets,
        origin,
        instance.token,
        _ABOUT_BYTES + size_of((packets, texts, origin.duplicates)),
        instance_id=nocloud.instance_id_of(instance, machine),
        once=instance.once,
        unread=unread,
    )


def _unread(documents: Mapping[str, bytes]) -> frozenset[str]:
    """Return the documents that may have a secret; the digest there is of the other ones."""
    return frozenset(name for name, text in documents.items() if text) - SHOWN | {"DIGEST"}


def answer_of(
    documents: Mapping[str, bytes], matched_by: str, sources: tuple[str, ...], size: int
) -> Answer:
    """Return the answer of these documents, as `look_up` had made it."""
    packets = _packets(documents)
    identity = hostnames.identity_in(documents)
    origin = Origin(matched_by, sources, digest=packets["DIGEST"].decode(), identity=identity)
    instance_id = nocloud.instance_id_in(documents["METADATA"])
    return Answer(packets, origin, size=_ABOUT_BYTES + 2 * size, instance_id=instance_id)


def _packets(documents: Mapping[str, bytes], once: Collection[str] = ()) -> dict[str, bytes]:
    """Return the packet of each document, and of their digest."""
    packets = {name: response_packet(name, body) for name, body in documents.items()}
    packets["DIGEST"] = response_packet("DIGEST", nocloud.digest(documents, once))
    return packets


def _reason(driver: Driver, machine: Machine) -> str:
    try:
        return hidden(driver, contract.text(driver, "explain", driver.explain(machine)))
    except ContractError as error:  # there is no such VM all the same
        return str(error)


def document_names(
    driver: Driver, checked: frozenset[str] = frozenset()
) -> frozenset[str] | Failure:
    """Call the driver, in this thread, for the documents beyond the standard ones. Never raise.

    `checked` is the last result: checking the same set again would take long if it is large.
    """
    try:
        return contract.names(driver, driver.document_names(), checked)
    except ContractError as error:
        return Failure("failed", str(error))
    except BaseException as error:  # a driver is foreign code, and asyncio's are no Exception
        log_error(driver, "document_names", error)
        return Failure("failed", reason_of(driver, error))
