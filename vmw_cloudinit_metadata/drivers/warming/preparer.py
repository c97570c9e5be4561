"""Preparer: makes and sends what is prepared of each VM's data, while a survey checks it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Generic

from vmw_cloudinit_metadata.drivers import preparation
from vmw_cloudinit_metadata.drivers import preparedrecords as records
from vmw_cloudinit_metadata.drivers.answers.instances import Instances, labelled
from vmw_cloudinit_metadata.drivers.answers.source import Notified, Source, SourceChecks, V
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.filesystem.filename import usual_stem
from vmw_cloudinit_metadata.drivers.layers.stack import LayerStack, selection_of
from vmw_cloudinit_metadata.drivers.store import BIOS_UUID, VC_UUID, Key
from vmw_cloudinit_metadata.instance.layering.substitution import sources_of
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import NIL_UUID, machine_called

_NO_VM = Key(VC_UUID, NIL_UUID)


class Preparer(Generic[V]):
    """Sends each line once; what a survey finds unchanged is not sent again.

    Not prepared is data that has a fault, is one of several for a VM, is spelled unusually, needs
    what only the VM itself tells, or depends on files whose changes are not told.
    """

    def __init__(
        self,
        source: Source[V],
        notified: Notified[V],
        instances: Instances[V],
        tell: Callable[[bytes], None],
        limit_bytes: int,
    ) -> None:
        self._source = source
        self._notified = notified
        self._instances = instances
        self._tell = tell
        self._limit_bytes = limit_bytes  # of all lines that the server keeps
        self._sent: dict[str, tuple[int, int]] = {}  # hash and length of a line, by its stem
        self._sent_bytes = 0
        self._unsettled: set[str] = set()  # stems of which this survey has said nothing yet
        self._stems: dict[str, str] = {}  # of data that is the only one of its VM, by its label
        self._labels: set[str] = set()  # in the survey before, likewise
        self._layers: list[tuple[str, object]] | None = None
        self._lasting = records.Lasting(inf)  # in this survey
        self._sent_lasting = self._lasting
        self._is_new = True

    def begin(self, places: Sequence[OwnData], checks: SourceChecks[V]) -> None:
        """Begin a survey of these places; raise DriverError."""
        if self._is_new:
            self._forget()  # what another driver has sent
            self._is_new = False
        usual = {own.label: usual_stem(own.stem) for own in places if own.matched_by != BY_LAYER}
        counts = Counter([*usual.values(), *checks.also()])
        self._labels = set(self._stems)
        fit = [
            own
            for own in places
            if usual.get(own.label) == own.stem
            and counts[own.stem] == 1
            and own.matched_by != BIOS_UUID  # a VC UUID may be the same, and is another VM's
        ]
        until_s = {own.label: checks.kept_until(own) for own in fit}
        least_s = time.monotonic() + records.LEAST_S
        self._stems = {own.label: own.stem for own in fit if until_s[own.label] > least_s}
        self._unsettled = {stem for stem in counts if stem}
        self._layers = self._told_layers(checks)
        self._lasting = records.Lasting(
            min((until_s[label] for label in self._stems), default=inf),
            len(fit) - len(self._stems),
        )
        if self._lasting.until_s < self._sent_lasting.until_s:
            self._send_lasting()

    def _told_layers(self, checks: SourceChecks[V]) -> list[tuple[str, object]] | None:
        """Return the layers; None if a change of what all answers depend on is not told."""
        if self._notified.changes.latest() is None:
            return None
        with checks.view() as view:
            found = self._source.layers(view)
            self._source.lowest(view)
            list(self._source.places([_NO_VM], view))
            if self._notified.seen(view) is None:
                return None
        return [(one.file.path, one.match) for one in found.layers]

    def wants(self, own: OwnData) -> bool:
        """Return whether data must be prepared again, although it has not changed."""
        return own.label in self._stems and own.label not in self._labels

    def still(self, own: OwnData) -> None:
        """The data, and all that it needs, is the same as in the survey before."""
        if own.stem in self._sent and own.label in self._stems:
            self._unsettled.discard(own.stem)

    def put(self, own: OwnData, stack: LayerStack, instance: InstanceData | None, view: V) -> None:
        """Prepare data that was read; `instance` has stand-ins for values of the VM."""
        if instance is None or own.label not in self._stems or self._layers is None:
            return
        if stack.own is None or stack.own.is_like_user_data:
            return
        line = self._line(own, stack, instance, view)
        if line is not None and len(line) <= records.MAX_LINE_BYTES:
            self._unsettled.discard(own.stem)
            self._send(own.stem, line)

    def _line(
        self, own: OwnData, stack: LayerStack, instance: InstanceData, view: V
    ) -> bytes | None:
        machine = known = machine_called(own.stem)
        if stack.has_references:
            known = replace(machine, name=machine.name or self._source.vm_name(own, view) or None)
            sources = partial(sources_of, known, stack.captures)
            found, _ = self._instances.merged(stack, sources, view)
            if found is None:
                return None
            instance = found
        if own.line:
            instance = labelled(instance, own)
        selection = selection_of(self._source.layers(view), machine)
        seen = self._notified.seen(view)
        if selection.faults or seen is None:
            return None
        own_keys = {*self._notified.shared, *self._notified.under(own.stem)}
        others = [key for key in seen if key not in own_keys]
        keys = [key for key in others if isinstance(key, str)]
        if len(keys) < len(others):  # it cannot be sent
            return None
        made = preparation.made_of(
            instance,
            machine,
            path=own.path,
            line=own.line,
            layers=selection.indices,
            name=known.name or "" if stack.has_references else "",
            keys=sorted(keys),
            signs=self._notified.signs(own, view),
        )
        return made.line_for(own.stem) if made else None

    def end(self, duplicates: Iterable[str]) -> None:
        """End a survey; what has a value that other data has too is not prepared."""
        warmed = records.of_warmed(self._layers)
        if warmed == records.of_warmed(None):
            self._forget()
            return
        self._unsettled |= {self._stems[label] for label in duplicates if label in self._stems}
        known = set(self._stems.values()) | self._unsettled
        for stem in self._unsettled:
            self._send(stem, None)
        for stem in [stem for stem in self._sent if stem not in known]:
            self._sent_bytes -= self._sent.pop(stem)[1]
            self._tell(records.of_gone(stem))
        if self._lasting != self._sent_lasting:
            self._send_lasting()
        self._tell(warmed)

    def _send_lasting(self) -> None:
        self._sent_lasting = self._lasting
        self._tell(records.of_lasting(self._lasting))

    def _forget(self) -> None:
        """Have the server forget everything, since it would not know when that changes."""
        self._sent, self._sent_bytes, self._stems = {}, 0, {}
        self._sent_lasting = records.Lasting(inf)
        self._tell(records.of_warmed(None))

    def _send(self, stem: str, line: bytes | None) -> None:
        before, before_bytes = self._sent.get(stem, (None, 0))
        room = self._limit_bytes - self._sent_bytes + before_bytes
        if line is not None and len(line) > room:
            line = None
        now = (hash(line), len(line or b""))
        if before != now[0]:
            self._tell(line if line is not None else records.of_unprepared(stem))
        self._sent[stem] = now
        self._sent_bytes += now[1] - before_bytes
