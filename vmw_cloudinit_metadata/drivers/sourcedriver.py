"""SourceDriver: answers from any source, with all that is the same for each of them."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

from vmw_cloudinit_metadata.drivers.answers.instances import Instances
from vmw_cloudinit_metadata.drivers.answers.lastgood import LastGood, served_because
from vmw_cloudinit_metadata.drivers.answers.search import Search
from vmw_cloudinit_metadata.drivers.answers.source import Source, SourceChecks, V
from vmw_cloudinit_metadata.drivers.checking.explanation import Explanation
from vmw_cloudinit_metadata.drivers.checking.keptchecks import KeptChecks
from vmw_cloudinit_metadata.drivers.checking.validation import Validation, once
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError
from vmw_cloudinit_metadata.drivers.drivererror import ChangedMeanwhile
from vmw_cloudinit_metadata.drivers.layers.explained import explained
from vmw_cloudinit_metadata.drivers.observation import Census, Observation
from vmw_cloudinit_metadata.drivers.storeoptions import StoreOptions
from vmw_cloudinit_metadata.drivers.vault.vault import vault_of
from vmw_cloudinit_metadata.drivers.warming.preparer import Preparer
from vmw_cloudinit_metadata.drivers.warming.warming import Warming
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.process.budget import Table
from vmw_cloudinit_metadata.protocol.vmware import Machine, machine_called

T = TypeVar("T")

# How long a look-up waits for a free file descriptor, and how often it tries again.
_PATIENCE_S = 1.0
_PAUSE_S = 0.02

# Data may change between two looks at it. If it does so each time, it may be missing for good.
_ATTEMPTS = 5
_CHANGING_S = 0.005  # after the first one, and longer after others


class SourceDriver(Driver, Generic[V]):
    """Finds a VM's own data by VC UUID, else BIOS UUID, else name: the identities of `match`.

    This own data lies over the layers that count for the VM.

    Whoever may edit a VM can give it any BIOS UUID, also one by which another VM's data is named.
    So a BIOS UUID counts only where the data says so in its `match`, or the option `match` does.
    """

    stale_if_error = None  # last_good_max_age_s

    def __init__(
        self,
        options: Mapping[str, Any],
        source_of: Callable[[Any], Source[V]],
    ) -> None:
        """`source_of` gets the checked options."""
        super().__init__(options)
        checked: StoreOptions = self.options
        self._source = source = source_of(checked)
        self.vault = self._vault = vault_of(checked.vault)
        self._instances = Instances(source, self._vault)
        self._search = Search(source, self._instances, checked.match)
        self._explanation = Explanation(source, self._instances, self._search)
        self._last_good = LastGood(checked.last_good_max_age_s)
        self._kept_checks = KeptChecks()
        self._census = Census()
        self._warming: Warming[V] | None = None
        if source.notified and not _is_refined(self):
            parts = source.notified, self._instances, self._search, self._last_good
            self._warming = Warming(source, *parts)
        self.prepared = self._warming
        self.stale_if_error = checked.last_good_max_age_s

    def get_instance(self, machine: Machine) -> InstanceData | None:
        get = partial(self._get, machine, with_secrets=True)
        return _patiently(get, partial(self._last_good_for, machine))

    def get_without_secrets(self, machine: Machine) -> InstanceData | None:
        if _is_refined(self):
            return self.get_instance(machine)
        get = partial(self._get, machine, with_secrets=False)
        return _patiently(get, partial(self._last_good_for, machine))

    def still_holds(self, token: Any) -> bool:
        return next(self.which_hold([token]))

    def which_hold(self, tokens: Iterable[Any]) -> Iterator[bool]:
        return self._source.which_hold(tokens)

    def watch(self, report: Callable[[str], None]) -> None:
        self._source.watch(report)
        if self._vault:
            self._vault.watch(report)

    def held_at(self, token: Any, time_s: float) -> bool:
        return self._source.held_at(token, time_s)

    def close(self) -> None:
        self._source.close()
        if self._vault:
            self._vault.close()

    def document_names(self) -> Collection[str]:
        return self._source.document_names()

    def explain(self, machine: Machine) -> str:
        return _repeated(partial(self._explanation.of, machine))

    def trace(self, machine: Machine) -> Iterator[str]:
        with self._source.view() as view:
            own = self._search.own(machine, view)
            if own:
                stack = self._instances.stack(own, machine, view)
                yield from explained(stack, machine, self._source.prefix)

    def check(self) -> None:
        _repeated(self._source.check)

    def validate(self) -> Iterator[Fault]:
        """Yield every fault and warning of all data, each once."""
        return once(one.fault for one in self.survey() if one)

    @property
    def can_validate(self) -> bool:
        return self._source.can_list

    def survey(self) -> Iterator[Observation | None]:
        checks = self._source.checks()
        self._kept_checks.begin(checks)
        places = checks.every()
        preparer = self._warming.preparer if self._warming else None
        if preparer:
            preparer.begin(places, checks)
        validation = self._validation(checks, preparer)
        yield from validation.observations(places)
        self._kept_checks.end()
        yield from map(Observation, checks.others())
        self.files_checked = validation.files_checked
        self._census = checks.census(validation.vms)

    def census(self) -> Census:
        return self._census

    def revision(self) -> int | None:
        return self._source.revision()

    def validate_named(self, names: Collection[str]) -> Iterator[Fault]:
        """Check the data of VMs, by their names or VC UUIDs, and files, by their paths.

        All other data is only compared with it. Raise DriverError for a file that does not exist or
        is not an instance file, and for a VM without data.
        """
        checks = self._source.checks()
        chosen = {own.label: own for name in names for own in self._chosen(name, checks)}
        self._kept_checks.begin(checks)
        validation = self._validation(checks)
        yield from validation.run(list(chosen.values()), checks.compared())
        self.files_checked = validation.files_checked

    def tables(self) -> Mapping[str, Table]:
        return {
            "last good answers": self._last_good,
            "readings": self._instances.readings,
            "values compared": self._instances.owners,
            "layers": self._instances.bases,
            **({"secrets": self._vault} if self._vault else {}),
            **self._source.tables(),
        }

    def notes(self) -> Iterator[str]:
        return self._source.checks().notes(is_match_given=self._search.is_match_given)

    def _validation(
        self, checks: SourceChecks[V], preparer: Preparer[V] | None = None
    ) -> Validation[V]:
        kept, judge = self._kept_checks, self.judge
        return Validation(self._source, self._instances, checks, kept, judge, preparer)

    def _chosen(self, name: str, checks: SourceChecks[V]) -> Sequence[OwnData]:
        chosen = checks.chosen(name)
        if chosen is not None:
            return chosen
        machine = machine_called(name)
        with self._source.view() as view:
            for places in self._source.places(self._search.keys(machine), view):
                if places:
                    return places
        raise DriverError(f"{name}: {checks.unknown(name) or self._explanation.of(machine)}")

    def _get(self, machine: Machine, *, with_secrets: bool) -> InstanceData | None:
        with self._source.view() as view:
            try:
                found = self._find(machine, view, with_secrets=with_secrets)
            except InvalidInstanceData as error:
                return self._last_good_for(machine, error, view)
            finally:
                view.confirm()
            if found is None:
                self._last_good.forget(machine.vc_uuid)
                return None
            own, instance = found
            if instance.secrets:
                self._last_good.forget(machine.vc_uuid)
            else:
                self._last_good.remember(machine.vc_uuid, own, instance, view.bytes_seen)
            return instance

    def _find(
        self, machine: Machine, view: V, *, with_secrets: bool
    ) -> tuple[OwnData, InstanceData] | None:
        own = self._search.own(machine, view)
        if own is None:
            return None
        reading = self._instances.read(own, machine, view, with_secrets=with_secrets)
        if reading.is_like_user_data and self._source.is_no_vm(own):
            return None
        instance = reading.served()
        if own.matched_by == BY_LAYER and self._instances.of_layers(machine, view) != own:
            raise ChangedMeanwhile(f"{own.path}: the layers were changed while they were read")
        if not instance.is_for(machine):
            return None
        return own, replace(
            instance,
            matched_by=own.matched_by,
            duplicates=reading.duplicates,
            token=None if instance.secrets and with_secrets else view.token(),
            lacks_secrets=bool(instance.secrets) and not with_secrets,
        )

    def _last_good_for(
        self, machine: Machine, error: DriverError | InvalidInstanceData, view: V | None = None
    ) -> InstanceData:
        """Return the last good answer; without a view, the source is out of reach."""
        recalled = self._last_good.recall(machine.vc_uuid)
        if recalled is None:
            raise error
        own, instance, until_s = recalled
        token = None
        if not self._search.has(machine, own):  # the VM was renamed
            raise error
        if view:
            if not self._source.exists(own, view):
                self._last_good.forget(machine.vc_uuid)
                raise error
            token = view.token(until_s)
        return replace(instance, problem=served_because(error), token=token)


def _is_refined(driver: SourceDriver[Any]) -> bool:
    """Return whether a derived class has a `get_instance` of its own, which is to be asked then."""
    return type(driver).get_instance is not SourceDriver.get_instance


def _patiently(get: Callable[[], T], instead: Callable[[DriverError], T]) -> T:
    """Return what `get` returns, or something instead if the source is out of reach."""
    end_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return _repeated(get)
        except DriverError as error:
            if not _lacks_descriptor(error) or time.monotonic() > end_s:
                return instead(error)
        time.sleep(_PAUSE_S)  # meanwhile connections end, to make room


def _repeated(call: Callable[[], T]) -> T:
    """Return what `call` returns; call it again if the data changed while it was read."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return call()
        except ChangedMeanwhile:
            time.sleep(attempt * _CHANGING_S)
    return call()


def _lacks_descriptor(error: DriverError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)
