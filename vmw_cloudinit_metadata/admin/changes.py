"""What each kind of happening changes in the record of its machine. No I/O."""

from __future__ import annotations

from vmw_cloudinit_metadata.admin.machinerecord import (
    BOOTED,
    BROKEN,
    ENDED,
    FAILED,
    LEFT,
    MOVING,
    SERVED,
    STALE,
    TEST,
    TROUBLE,
    WAITING,
    MachineRecord,
)
from vmw_cloudinit_metadata.admin.shortening import is_beside_story
from vmw_cloudinit_metadata.monitoring.bounded import within
from vmw_cloudinit_metadata.monitoring.facts import (
    BootReported,
    DocumentsServed,
    IdentityChanged,
    PeerRejected,
    RequestFailed,
    StaleServed,
    VmIdentified,
    VmLeft,
    VmMoved,
    VmotionAborted,
    VmotionBegun,
    VmotionDeclined,
    VmotionExpired,
    WindowClosed,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.kept import bytes_of_machine
from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_MOVES = 20
MAX_ASKED = 32  # documents
MAX_DOCUMENT_BYTES = 160  # of a document's name; a file's have 32 letters
MAX_PORTS = 16  # of one machine that are reported; more are counted
NEW_BYTES = 900  # a record, its places in dictionaries, its own ones, and the names in them
_ASKED_BYTES = 300

COMES = (VmIdentified, IdentityChanged, VmMoved)  # facts of a connection that has this machine


def lose(record: MachineRecord, connection: str, now_s: float) -> None:
    """Record that one of the machine's connections has ended."""
    record.ports.pop(connection, None)
    record.port_count -= 1
    if record.port_count:
        return
    record.left_s = record.changed_s = now_s
    if record.state not in TROUBLE and record.state != TEST:
        record.state = LEFT


def new_record(key: str, happening: Happening) -> MachineRecord:
    machine = happening.machine
    assert machine
    return MachineRecord(key, machine, happening.host, bytes=NEW_BYTES + bytes_of_machine(machine))


def add(record: MachineRecord, happening: Happening, size: int) -> None:
    """Record a happening of this machine, which holds `size` bytes."""
    machine, ours = happening.machine, record.machine
    assert machine
    if machine is not ours:
        if machine.connected_since == ours.connected_since and machine == ours:
            happening = happening._replace(machine=ours)  # a worker sends a new one each time
        else:
            _become(record, machine, happening.connection)
    record.host = happening.host
    record.changed_s = happening.at_s
    record.bytes += size
    _change(record, happening)
    if machine.is_test:
        record.state = TEST
    if type(happening.fact) in COMES and happening.connection:
        _come(record, happening)
    _remember(record, happening, size)


def _become(record: MachineRecord, machine: Machine, connection: str) -> None:
    """Record what is known of the machine by now, and of its connection: its proof."""
    record.machine = machine
    record.bytes += bytes_of_machine(machine)
    if came := record.ports.get(connection):
        record.ports[connection] = came._replace(machine=machine)


def _come(record: MachineRecord, happening: Happening) -> None:
    """Record how a connection came."""
    ports = record.ports
    ports[happening.connection] = happening
    if len(ports) > MAX_PORTS:
        del ports[next(iter(ports))]


def _remember(record: MachineRecord, happening: Happening, size: int) -> None:
    """Add to the story; repetitions in a row are one entry with a count."""
    times = 1
    if record.story:
        last, before, its_size = record.story[-1]
        fact = happening.fact
        if type(last.fact) is type(fact) and last.fact.text == fact.text:
            record.story = record.story[:-1]
            if not is_beside_story(record, last):
                record.bytes -= its_size
            times += before
    record.story = (*record.story, (happening, times, size))


def _change(record: MachineRecord, happening: Happening) -> None:
    match happening.fact:
        case VmIdentified():
            if record.state not in TROUBLE:
                record.state = WAITING
        case DocumentsServed() as served:
            _served(record, happening, served)
        case BootReported() as reported:
            _reported(record, happening, reported)
        case VmLeft():
            pass  # `lose` changes the state, with the last connection
        case RequestFailed() as failed:
            _failed(record, happening, failed)
        case WindowClosed(document=document):
            _refused(record, happening, document, "closed")
            if record.state == WAITING:
                record.state = SERVED  # before, by this server or another one
        case PeerRejected():
            if not record.port_count:  # else it is another port of a machine that is served
                _in_trouble(record, happening, FAILED)
        case StaleServed():
            _in_trouble(record, happening, STALE)
        case VmotionBegun():
            if record.state != MOVING:
                record.before_move = record.state
            record.state = MOVING
            _move(record, happening)
        case VmotionDeclined():
            _move(record, happening)
        case VmotionAborted() | VmotionExpired():
            if record.state == MOVING:
                record.state = record.before_move
            _move(record, happening)
        case VmMoved():
            if record.state in (MOVING, LEFT):
                record.state = record.before_move
            _move(record, happening)


def _served(record: MachineRecord, happening: Happening, served: DocumentsServed) -> None:
    record.served = happening
    is_boot = "METADATA" in served.answered
    if is_boot:
        record.metadata_s = served.answered["METADATA"]
    if is_boot or record.state not in ENDED:  # else it asks for more, after its boot
        record.state = SERVED
    if served.problem:
        record.state = STALE
        if not record.trouble or not isinstance(record.trouble.fact, StaleServed):
            stale = StaleServed(served.problem, served.sources)
            record.trouble = happening._replace(fact=stale)
    record.asked |= dict.fromkeys(served.answered, served.answered)
    _forget_answers(record)


def _reported(record: MachineRecord, happening: Happening, reported: BootReported) -> None:
    record.outcome = happening
    if reported.status == "error":
        _in_trouble(record, happening, BROKEN)
    elif record.state not in (FAILED, STALE):  # what it got is trouble all the same
        record.state = BOOTED


def _failed(record: MachineRecord, happening: Happening, failed: RequestFailed) -> None:
    _refused(record, happening, failed.document, failed.error)
    if failed.error != "unknown-request" and failed.document != "STATUS":  # no boot fails by these
        _in_trouble(record, happening, FAILED)


def _refused(record: MachineRecord, happening: Happening, document: str, error: str) -> None:
    record.asked[within(document, MAX_DOCUMENT_BYTES)] = happening.at_s, error
    record.bytes += _ASKED_BYTES
    _forget_answers(record)


def _forget_answers(record: MachineRecord) -> None:
    while len(record.asked) > MAX_ASKED:
        oldest, *_ = record.answers()[0]
        del record.asked[oldest]


def _in_trouble(record: MachineRecord, happening: Happening, state: str) -> None:
    record.trouble = happening
    record.state = state


def _move(record: MachineRecord, happening: Happening) -> None:
    record.moves = (*record.moves, happening)[-MAX_MOVES:]
