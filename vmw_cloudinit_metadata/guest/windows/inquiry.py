"""One inquiry: asking on the serial ports until there is usable data, or until time is over."""

import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import yaml

from vmw_cloudinit_metadata.guest.agent.conversation import Conversation
from vmw_cloudinit_metadata.guest.agent.documentset import DocumentReader
from vmw_cloudinit_metadata.guest.agent.failures import (
    AgentError,
    ErrorAnswer,
    GaveUp,
    PortLost,
    Unusable,
)
from vmw_cloudinit_metadata.guest.agent.patience import Patience, retry_delay_s
from vmw_cloudinit_metadata.guest.agent.port import GuestPort
from vmw_cloudinit_metadata.guest.agent.printing import printable
from vmw_cloudinit_metadata.guest.agent.responses import Documents, load_json
from vmw_cloudinit_metadata.guest.windows.comport import open_ports, wait_for

SILENCE_S = 15.0  # how long an answer may pause once it has begun
LONGEST_S = 600.0  # upper limit of every wait

MAX_YAML_BYTES = 256 * 1024  # PyYAML takes 1 s for 100 kB
MAX_VALUES = 20_000  # of a document, each alias of YAML counted with all that is below it

# PyYAML's constructors let these through.
ODD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


class FetchedData(NamedTuple):
    """What the server said, and where."""

    metadata: Dict[Any, Any]
    documents: Documents
    port: str


class Inquiry:
    """Asks until there is data; `announce` is called with a line for people before each retry."""

    def __init__(
        self,
        find: Callable[[], List[str]],
        timeout_s: float,
        retry_s: float,
        announce: Callable[[str], None],
    ) -> None:
        """`find` returns the ports to ask on; it may raise NoPort."""
        self._find = find
        self._patience = Patience(timeout_s, SILENCE_S, LONGEST_S)
        self._retry_s = retry_s
        self._announce = announce
        self._reader = DocumentReader()
        self._unusable = 0

    def run(self) -> FetchedData:
        """Raise NoPort or GaveUp."""
        while True:
            try:
                with self._opened() as ports:
                    conversation = Conversation(
                        ports, wait_for, self._patience, self._retry_s, self._announce
                    )
                    conversation.drain()
                    return FetchedData(*self._ask(conversation), ports[0].device)
            except PortLost as lost:
                self._consider(lost)
                time.sleep(min(self._retry_s, self._patience.left_s))

    @contextmanager
    def _opened(self) -> Iterator[List[GuestPort]]:
        ports: List[GuestPort] = []
        try:
            ports += open_ports(self._find())
            yield ports
        finally:
            for port in ports:
                port.close()

    def _ask(self, conversation: Conversation) -> Tuple[Dict[Any, Any], Documents]:
        while True:
            try:
                documents = self._reader.read(conversation)
                return metadata_of(documents), documents
            except (Unusable, ErrorAnswer) as caught:
                failure: AgentError = caught
            self._consider(failure)
            conversation.wait(self._pause_after(failure))
            if self._patience.is_over:
                raise GaveUp(str(failure))

    def _pause_after(self, failure: AgentError) -> float:
        if isinstance(failure, ErrorAnswer):
            return self._retry_s
        self._unusable += 1
        return retry_delay_s(self._unusable, self._retry_s)

    def _consider(self, failure: AgentError) -> None:
        """Announce the failure and a retry; raise GaveUp if there is none."""
        is_final = isinstance(failure, ErrorAnswer) and failure.is_final
        if self._patience.is_over or is_final:
            raise GaveUp(str(failure))
        self._announce(f"{failure}: retrying")


def metadata_of(documents: Documents) -> Dict[Any, Any]:
    """Return the meta-data; raise Unusable if it has no instance-id."""
    metadata = load_mapping("meta-data", documents["METADATA"])
    if metadata.get("instance-id") in (None, ""):
        raise Unusable("meta-data has no instance-id")
    return metadata


def load_mapping(name: str, document: bytes) -> Dict[Any, Any]:
    """Parse a document of JSON or YAML; raise Unusable, without a word of its content."""
    try:
        text = document.decode()
    except UnicodeDecodeError:
        raise Unusable(f"{name} is not UTF-8") from None
    try:
        value = load_json(text)
    except ValueError:
        value = load_yaml(name, text)
    if not isinstance(value, dict):
        raise Unusable(f"{name} is not a mapping")
    if not has_at_most(MAX_VALUES, value):
        raise Unusable(f"{name} has more than {MAX_VALUES:,} values")
    return value


def has_at_most(limit: int, value: Any) -> bool:
    """Return whether there are so many values; aliases may make them far more than the text."""
    values = [value]
    while values and len(values) <= limit:
        limit -= 1
        item = values.pop()
        values += (
            item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        )
    return not values


def load_yaml(name: str, text: str) -> Any:
    """Parse YAML, but none of its tags for objects of Python; raise Unusable."""
    if len(text) > MAX_YAML_BYTES:
        raise Unusable(f"{name} is no JSON, and longer than {MAX_YAML_BYTES:,} bytes")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
    except ODD:
        where = ""
    raise Unusable(f"{name} is neither JSON nor YAML{printable(where)}")
