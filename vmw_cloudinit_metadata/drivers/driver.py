"""Driver: the interface between the server and a source of instance data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

from vmw_cloudinit_metadata.drivers import contract, driveroptions
from vmw_cloudinit_metadata.drivers.drivererror import DriverError as DriverError
from vmw_cloudinit_metadata.drivers.drivererror import NoWebhooksError
from vmw_cloudinit_metadata.drivers.driveroptions import DriverOptions
from vmw_cloudinit_metadata.drivers.observation import Census, Observation
from vmw_cloudinit_metadata.drivers.optionsecrets import secrets_in
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedAnswers
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.process.budget import Table
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.protocol.webhook import Webhook
from vmw_cloudinit_metadata.settings.knownsecrets import KnownSecrets


class Work:
    """The work of one thread of a driver, which others wait for."""

    __slots__ = ("is_awaited", "is_kept", "is_over")

    def __init__(self) -> None:
        self.is_awaited = False
        self.is_over = False
        self.is_kept = False  # once it is over, everybody gets its result without work


class Hideable(Protocol):
    is_hidden: bool  # whether references stand for values, which are read all the same


class UnderWay(Exception):  # noqa: N818 - not an error
    """Another thread of the driver does the same: call again when `work` is done.

    Callers that wait take no place in the pool meanwhile.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        super().__init__("under way already")


class Driver(ABC):
    """Finds the instance data of machines.

    One object serves all machines of a server. All methods but `held_at` and those of `prepared`
    run in threads, several at once, and may block.
    """

    # The model of --driver-opts; None: any options, unchecked.
    Options: type[DriverOptions] | None = None

    # An answer without a token is given again for this many seconds. A driver that overrides
    # `still_holds`, `which_hold` or `held_at` has a rule of its own instead.
    cache_ttl: float = 0.0

    # While the driver fails or does not answer, a VM with a VC UUID gets its last answer for this
    # many seconds after the answer was last known to hold. None: the class sets its own time.
    stale_if_error: float | None = 0.0

    # What the process of the catalogue can prepare, for `get_instance` to be saved; None: nothing.
    prepared: PreparedAnswers | None = None
    why_not_prepared = ""  # what an operator may change about that

    # Set by the command `validate`: returns further warnings, those of cloud-init's schemas.
    judge: Callable[[InstanceData], Iterable[Fault]] | None = None

    # How many files, or VMs, the last `validate` or `validate_named` has checked, if known.
    files_checked: int | None = None

    # Where the values of `${secret:…}` come from. The command `show` hides them.
    vault: Hideable | None = None

    # The secrets among the options: they are hidden in what its exceptions say.
    known_secrets = KnownSecrets()

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Check --driver-opts, and keep them as `self.options`; raise DriverError.

        `cache_ttl` and `stale_if_error` become attributes, and are not among `self.options`.
        """
        own = dict(options)
        self.cache_ttl = self._time("cache_ttl", own)
        if self.stale_if_error is not None or "stale_if_error" in own:
            self.stale_if_error = self._time("stale_if_error", own)
        self.options: Any = driveroptions.checked(self.Options, own)
        self.known_secrets = KnownSecrets(secrets_in([own, self.options]))

    def _time(self, name: str, options: dict[str, Any]) -> float:
        """Take a time from the options, else from the class."""
        owner = type(self).__name__
        if name not in options:
            if self.cache_ttl and not self.takes_time("cache_ttl"):
                raise DriverError(f"{owner} has a cache_ttl and a still_holds: remove one of them")
            return driveroptions.seconds(f"{owner}.{name}", getattr(self, name))
        if not self.takes_time(name):
            raise DriverError(
                f"{name}: {owner} decides by itself how long its answers hold: remove this option"
            )
        return driveroptions.seconds(name, options.pop(name))

    @classmethod
    def takes_time(cls, name: str) -> bool:
        """Return whether the option `cache_ttl` or `stale_if_error` has an effect on the class."""
        if name == "stale_if_error":
            return cls.stale_if_error is not None
        rules = ("still_holds", "which_hold", "held_at")
        return all(getattr(cls, rule) is getattr(Driver, rule) for rule in rules)

    @abstractmethod
    def get_instance(self, machine: Machine) -> InstanceData | None:
        """Return the machine's data, or None if there is no such machine.

        Raise DriverError if the source is out of reach, InvalidInstanceData (as
        `InstanceData.from_mapping` does) if the data is invalid, and UnderWay if another thread is
        looking it up already.
        """

    def get_without_secrets(self, machine: Machine) -> InstanceData | None:
        """Return what `get_instance` does, and read no secret that the data names by reference.

        If there is one, the result `lacks_secrets`, and may have a token. `get_instance` is called
        for a document that may have one, if the VM's window for user-data is open.
        """
        return self.get_instance(machine)

    def still_holds(self, token: Any) -> bool:  # noqa: ARG002
        """Return whether `get_instance` would return the answer with this token again.

        `token` is its `InstanceData.token`. Called before a cached answer is given, at most every
        0.15 s. VMs wait for it.
        """
        return False

    def which_hold(self, tokens: Iterable[Any]) -> Iterator[bool]:
        """Yield `still_holds` of each token; override it to look only once at what they share."""
        return (contract.truth(self, "still_holds", self.still_holds(token)) for token in tokens)

    def watch(self, report: Callable[[str], None]) -> None:  # noqa: B027 - optional
        """Start listening for notifications of changes, if the source can send them.

        Called once, when the server starts. `report` takes sentences for the log, in any thread.
        """

    def held_at(self, token: Any, time_s: float) -> bool:  # noqa: ARG002
        """Return whether notifications say that `still_holds` was true at that time.

        `time_s` is of time.monotonic(). Unlike all other methods this one is called in the server's
        event loop: it must not block. If it returns False, `still_holds` is asked.
        """
        return False

    def document_names(self) -> Collection[str]:
        """Return the documents beyond the standard ones of any machine, such as SECURITYDATA."""
        return ()

    def explain(self, machine: Machine) -> str:  # noqa: ARG002
        """Return why `get_instance` returned None, for the operator's log."""
        return "the driver knows no such VM"

    def trace(self, machine: Machine) -> Iterable[str]:  # noqa: ARG002
        """A line for each value of a machine's data, which says where that stands: for `show`."""
        name = type(self).__name__
        raise DriverError(
            f"{name} cannot explain where values come from, since it has no method trace: use "
            "`show` without --explain"
        )

    def source_name(self) -> str:
        """Return where the data is; `/readyz` says it to everybody, and it must not block."""
        return type(self).__name__

    def hook(self, webhook: Webhook) -> None:  # noqa: ARG002
        """Take a webhook, which tells changes; called in each worker.

        Raise WebhookRefusedError if its signature is wrong, another DriverError if it cannot be
        understood.
        """
        raise NoWebhooksError("the driver takes no webhooks")

    def check(self) -> None:  # noqa: B027 - not every driver has something to check
        """Raise DriverError if no VM could be served now; called every second."""

    def validate(self) -> Iterable[Fault]:
        """Check all data; yield every fault and warning."""
        name = type(self).__name__
        raise DriverError(
            f"{name} cannot validate its data, since it has no method validate: use `show` for a VM"
        )

    def validate_named(self, names: Collection[str]) -> Iterable[Fault]:  # noqa: ARG002
        """Check only these files or VMs; raise DriverError for an unknown one."""
        name = type(self).__name__
        raise DriverError(
            f"{name} cannot validate single files or VMs, since it has no method validate_named: "
            "use `show` for a VM"
        )

    @property
    def can_validate(self) -> bool:
        return type(self).validate is not Driver.validate

    def survey(self) -> Iterable[Observation | None]:
        """Do what `validate` does, and say which VMs each fault affects.

        It may yield None, to show that the work goes on, and an equal fault several times. A second
        call should read only what has changed. The server calls it in a process of its own.
        """
        return map(Observation, self.validate())

    def census(self) -> Census:
        """Return how much the last `survey` has read."""
        return Census(self.files_checked)

    def revision(self) -> int | None:
        """Return a number that is another one after each change; None if `watch` has not been
        called, or the source does not notify."""
        return None

    def tables(self) -> Mapping[str, Table]:
        """Return the driver's caches by name; they count against the server's memory budget."""
        return {}

    def notes(self) -> Iterable[str]:
        """Return further sentences for the operator, which `validate` prints after the faults."""
        return ()

    def close(self) -> None:  # noqa: B027 - not every driver holds something
        """Free resources; called once, after the server has stopped."""
