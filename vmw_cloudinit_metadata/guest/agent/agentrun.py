"""One run of the agent: whose seed is there, whether to ask, and what to publish."""

import time
from typing import List, Optional, Tuple

from vmw_cloudinit_metadata.guest.agent.agentoutput import put
from vmw_cloudinit_metadata.guest.agent.cardnames import name_the_card
from vmw_cloudinit_metadata.guest.agent.conf import CONFIG, Settings, opens_gate
from vmw_cloudinit_metadata.guest.agent.conversation import FILES
from vmw_cloudinit_metadata.guest.agent.documentset import sha256
from vmw_cloudinit_metadata.guest.agent.failures import AgentError
from vmw_cloudinit_metadata.guest.agent.fetching import Fetch
from vmw_cloudinit_metadata.guest.agent.journal import Journal
from vmw_cloudinit_metadata.guest.agent.printing import printable
from vmw_cloudinit_metadata.guest.agent.responses import Documents
from vmw_cloudinit_metadata.guest.agent.seeddirectory import NEEDED, Files, Memory, SeedDir
from vmw_cloudinit_metadata.guest.agent.system import System
from vmw_cloudinit_metadata.guest.agent.texts import instance_id_of, with_instance_id

NO_DEVICE = (
    "warning: no device is set: the agent trusts the first port that answers, and cloud-init runs "
    "its data as root: set `device = {}` in " + CONFIG
)


def advice(before: Optional[Memory], now: Memory) -> List[str]:
    """Return lines about what cloud-init will do on a machine that had a seed before."""
    if before is None:
        return []
    if now.served_instance_id != now.instance_id:
        line = "instance-id: keeping %s, not the server's %s: cloud-init applies nothing new"
        return [line % (printable(now.instance_id), printable(now.served_instance_id))]
    if now.instance_id != before.instance_id:
        line = (
            "instance-id changed from %s to %s: cloud-init takes this for a new machine and "
            "applies everything again, with new SSH host keys; --keep-instance-id keeps the old one"
        )
        return [line % (printable(before.instance_id), printable(now.instance_id))]
    names = sorted(set(before.files) | set(now.files))
    changed = [name for name in names if before.files.get(name) != now.files.get(name)]
    if not changed:
        return []
    line = (
        "%s changed and instance-id did not: cloud-init does not apply the change until "
        "instance-id changes (network-config: unless cloud-init is set to apply it at every boot)"
    )
    return [line % ", ".join(changed)]


class Agent:
    """One run: on a system, for a seed, with settings."""

    def __init__(self, system: System, settings: Settings, journal: Journal) -> None:
        self._system = system
        self._settings = settings
        self._journal = journal
        self._seed = SeedDir(system.itself(settings["seed-dir"]))
        self._before: Optional[Memory] = None

    def run(self, dry: bool = False) -> int:
        """Return the exit code."""
        began_s = time.monotonic()
        try:
            self._look_back(dry)
            if not opens_gate(self._settings) and not self._system.is_vmware:
                self._journal.log("not a VMware machine: the agent asks only with gate = off")
                return 1 if dry else 0
            documents, device = self._fetch()
            if not self._settings["device"]:
                self._journal.log(NO_DEVICE.format(device))
            files, memory = self._seed_of(documents)
            if dry:
                return show(self._seed.place, files)
            self._publish(files, memory, f"{time.monotonic() - began_s:.1f} s on {device}")
        except AgentError as error:
            return self._continue_after(error, dry)
        except OSError as error:
            rest = self._what_remains()
            self._journal.announce(
                f"{self._seed.place}: the seed could not be written: {error}: {rest}"
            )
            return 1
        return 0

    def _look_back(self, dry: bool) -> None:
        """Remember the old seed if it is this machine's; remove it if it came with a clone."""
        if not dry:
            self._seed.recover()
        self._before = self._seed.memory()
        if self._before is None or self._system.has_uuid(self._before.machine):
            return
        self._before = None
        if not dry:
            self._seed.remove()
        done = "would be" if dry else "is"
        self._journal.announce(
            f"the seed belongs to another machine (this one is a clone): it {done} removed"
        )

    def _fetch(self) -> Tuple[Documents, str]:
        has_seed = self._before is not None
        return Fetch(self._system, self._settings, self._journal, has_seed).run()

    def _seed_of(self, documents: Documents) -> Tuple[Files, Memory]:
        """Return the files as cloud-init is to read them, and what to remember."""
        files = {
            name: documents[code]
            for code, name in FILES.items()
            if documents.get(code) or name in NEEDED
        }
        served_id = instance_id = instance_id_of(files["meta-data"])
        if self._settings["keep-instance-id"] and self._before:
            instance_id = self._before.instance_id
        if instance_id != served_id:
            files["meta-data"] = with_instance_id(files["meta-data"], instance_id)
        if "network-config" in files:
            files["network-config"], lines = name_the_card(files["network-config"], self._system)
            for line in lines:
                self._journal.announce(line)
        digests = {name: sha256(content) for name, content in files.items()}
        return files, Memory(self._system.uuid, instance_id, served_id, digests)

    def _publish(self, files: Files, memory: Memory, how: str) -> None:
        if memory == self._before:
            done = "is unchanged"
        else:
            self._seed.publish(files, memory)
            done = "is published"
        for line in advice(self._before, memory):
            self._journal.announce(line)
        sizes = ", ".join("%s %d bytes" % (name, len(files[name])) for name in files)
        self._journal.log(f"the seed of {printable(memory.instance_id)} {done}: {sizes}; {how}")

    def _continue_after(self, error: AgentError, dry: bool) -> int:
        self._journal.announce(f"{error}: {self._what_remains()}")
        return 1 if dry else 0

    def _what_remains(self) -> str:
        """Say what cloud-init will use. Another run of the agent may have published meanwhile."""
        memory = self._seed.memory()
        if memory and self._system.has_uuid(memory.machine):
            return "keeping the seed of " + printable(memory.instance_id)
        if self._seed.is_present:
            return "cloud-init uses the seed that is already there"
        return "cloud-init continues without data"


def show(place: str, files: Files) -> int:
    """Print what would be written."""
    for name, content in files.items():
        put(("==> %s/%s (%d bytes) <==\n" % (place, name, len(content))).encode())
        put(content if content.endswith(b"\n") or not content else content + b"\n")
    return 0
