"""A vCenter or a single ESXi host: finds VMs and reconfigures them. Does I/O; blocks; thread-safe.

pyVmomi's own SmartConnect compares a thumbprint only where the certificate is not valid otherwise,
and waits without limit for a host that does not answer; so this module connects by itself.
"""

from __future__ import annotations

import hmac
import http.client
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from xml.parsers.expat import ExpatError

from pyVmomi import SoapStubAdapter, vim, vmodl

from vmw_cloudinit_metadata.guest.vsphere.portplan import Power, Step, VmError, VmState
from vmw_cloudinit_metadata.guest.vsphere.spec import config_spec, ports_of
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.thumbprint import thumbprint_like
from vmw_cloudinit_metadata.settings.values import Address

VERSION = "vim.version.version11"  # vSphere 6.5; nothing newer is needed
REQUEST_S = 60.0
TASK_S = 300.0
PAGE = 1000  # VMs in one answer

_POLL_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # the last one repeats
_IDENTITY = ("name", "config.instanceUuid", "config.uuid")
_STATE = (
    *("config.hardware.device", "runtime.powerState", "config.template"),
    "config.instanceUuid",
)
VirtualMachine: TypeAlias = vim.VirtualMachine
_VmsBy = dict[str, list[VirtualMachine]]
_query = vmodl.query.PropertyCollector
_ODD = (
    ExpatError,
    KeyError,
    TypeError,
    ValueError,
)  # pyVmomi, on invalid answers
BROKEN = (OSError, http.client.HTTPException, *_ODD)
FAILURES = (vmodl.MethodFault, *BROKEN)  # what pyVmomi raises


@dataclass(frozen=True, slots=True)
class Trust:
    """How to check the vCenter's certificate; by default against the system's authorities."""

    ca_file: Path | None = None
    thumbprint: str | None = None  # SHA-1 or SHA-256, hexadecimal, lower case
    is_insecure: bool = False


class LoginRefusedError(ConfigError):
    """vCenter does not let the user in; trying again soon may lock the account."""


@contextmanager
def connect(
    address: Address, user: str, password: str, trust: Trust, jobs: int
) -> Iterator[VCenter]:
    """Log in, and log out at the end; raise ConfigError if the login fails."""
    with session(address, user, password, trust, jobs) as content:
        yield VCenter(content)


@contextmanager
def session(
    address: Address,
    user: str,
    password: str,
    trust: Trust,
    jobs: int = 1,
    request_s: float = REQUEST_S,
) -> Iterator[vim.ServiceInstanceContent]:
    """Log in, and log out at the end; raise ConfigError if the login fails."""
    stub = SoapStubAdapter(
        host=address.host,
        port=address.port,
        version=VERSION,
        sslContext=_tls(address, trust, request_s),
        poolSize=jobs,
        httpConnectionTimeout=request_s,
    )
    content = _log_in(stub, address, user, password)
    try:
        yield content
    finally:
        with suppress(*FAILURES):
            content.sessionManager.Logout()


class VCenter:
    """A vCenter with a session. Its methods raise VmError."""

    def __init__(self, content: vim.ServiceInstanceContent) -> None:
        self._content = content
        with _as_vm_error():
            self._named, self._by_uuid = self._identities()

    def find(self, name: str) -> VirtualMachine:
        """Return the VM of this name, VC UUID, BIOS UUID or inventory path (DC/vm/web1)."""
        if "/" in name:
            return self._by_path(name)
        uuid = parse_uuid(name)
        found = self._by_uuid.get(uuid, []) if uuid else self._named.get(name, [])
        if not found:
            raise VmError("no VM has this UUID" if uuid else "no VM has this name")
        if len(found) > 1:
            raise VmError(
                f"{len(found)} VMs match ({', '.join(map(reference, found))}):"
                " use the VC UUID or the inventory path"
            )
        return found[0]

    def look(self, vm: VirtualMachine) -> VmState:
        """Return the VM's present power state and ports."""
        devices, power, is_template, vc_uuid = self._state(vm)
        return VmState(power, is_template, ports_of(devices), vc_uuid)

    def carry_out(self, vm: VirtualMachine, step: Step) -> None:
        """Carry out one step and wait until it is done."""
        devices, *_ = self._state(vm)
        with _as_vm_error():
            _wait(vm.ReconfigVM_Task(spec=config_spec(step, devices)))

    def _identities(self) -> tuple[_VmsBy, _VmsBy]:
        named: _VmsBy = defaultdict(list)
        by_instance: _VmsBy = defaultdict(list)
        by_bios: _VmsBy = defaultdict(list)
        for vm, values in self._all():
            named[values.get("name", "")].append(vm)
            by_instance[values.get("config.instanceUuid", "").lower()].append(vm)
            by_bios[values.get("config.uuid", "").lower()].append(vm)
        return named, {**by_bios, **by_instance}

    def _all(self) -> Iterator[tuple[VirtualMachine, Mapping[str, Any]]]:
        view = self._content.viewManager.CreateContainerView(
            container=self._content.rootFolder, type=[vim.VirtualMachine], recursive=True
        )
        try:
            yield from self._properties(members(view), _IDENTITY)
        finally:
            view.DestroyView()

    def _by_path(self, path: str) -> VirtualMachine:
        with _as_vm_error():
            found = self._content.searchIndex.FindByInventoryPath(inventoryPath=path.strip("/"))
        if not isinstance(found, vim.VirtualMachine):
            raise VmError("no VM has this inventory path (example: DC/vm/folder/web1)")
        return found

    def _state(self, vm: VirtualMachine) -> tuple[list[Any], Power, bool, str]:
        with _as_vm_error():
            found = self._properties(_query.ObjectSpec(obj=vm), _STATE)
            values = next((values for _, values in found), {})
        if "config.hardware.device" not in values:
            raise VmError("vCenter does not list its devices: is the VM inaccessible or orphaned?")
        devices, power, is_template, vc_uuid = (values.get(path) for path in _STATE)
        return list(devices or []), Power(str(power)), bool(is_template), vc_uuid or ""

    def _properties(
        self, where: vmodl.query.PropertyCollector.ObjectSpec, wanted: Sequence[str]
    ) -> Iterator[tuple[VirtualMachine, Mapping[str, Any]]]:
        """Yield each VM there with those of its properties that vCenter knows."""
        properties = _query.PropertySpec(type=vim.VirtualMachine, pathSet=list(wanted))
        collector = self._content.propertyCollector
        page = collector.RetrievePropertiesEx(
            specSet=[_query.FilterSpec(objectSet=[where], propSet=[properties])],
            options=_query.RetrieveOptions(maxObjects=PAGE),
        )
        while page:
            for found in page.objects:
                yield found.obj, {property_.name: property_.val for property_ in found.propSet}
            page = collector.ContinueRetrievePropertiesEx(token=page.token) if page.token else None


def reference(vm: VirtualMachine) -> str:
    """Return the vCenter's own name, such as vm-42, from pyVmomi's 'vim.VirtualMachine:vm-42'."""
    return str(vm).strip("'").rpartition(":")[2]


def members(view: vim.view.ContainerView) -> vmodl.query.PropertyCollector.ObjectSpec:
    along = _query.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)
    return _query.ObjectSpec(obj=view, skip=True, selectSet=[along])


def _log_in(
    stub: SoapStubAdapter, address: Address, user: str, password: str
) -> vim.ServiceInstanceContent:
    try:
        content = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
        if content is None:
            raise ConfigError(f"{address}: does not answer like a vCenter")
        content.sessionManager.Login(userName=user, password=password)
    except vim.fault.InvalidLogin as error:
        raise LoginRefusedError(f"{address}: user {user!r} or the password is wrong") from error
    except vmodl.MethodFault as error:
        raise LoginRefusedError(f"{address}: login refused: {_text(error)}") from error
    except BROKEN as error:
        raise ConfigError(f"{address}: {_connection_text(error)}") from error
    return content


def _tls(address: Address, trust: Trust, request_s: float) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=trust.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--ca-file: {trust.ca_file}: {error}") from error
    if trust.is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif trust.thumbprint:
        context = _pinned(_certificate(address, request_s), trust.thumbprint, address)
    return context


def _certificate(address: Address, request_s: float) -> bytes:
    """Return the peer's certificate, unverified; the caller compares its thumbprint."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address.host, address.port), request_s) as plain,
            context.wrap_socket(plain, server_hostname=address.host) as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""
    except OSError as error:
        raise ConfigError(f"{address}: {_connection_text(error)}") from error


def _pinned(certificate: bytes, thumbprint: str, address: Address) -> ssl.SSLContext:
    """Return a context that accepts only this certificate."""
    found = thumbprint_like(thumbprint, certificate)
    if not hmac.compare_digest(found, thumbprint):
        raise ConfigError(f"--thumbprint: {address} has a certificate with thumbprint {found}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be that of an authority
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(certificate))
    return context


def failure_text(error: Exception) -> str:
    """Return what one of FAILURES says."""
    return _text(error) if isinstance(error, vmodl.MethodFault) else _connection_text(error)


def _connection_text(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}):"
            " use --ca-file or --thumbprint"
        )
    if isinstance(error, _ODD):
        return f"does not answer like a vCenter ({type(error).__name__}: {error})"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"cannot be reached: {one_line(text)}"


@contextmanager
def _as_vm_error() -> Iterator[None]:
    """Turn errors of the vCenter and of the connection into VmError."""
    try:
        yield
    except vmodl.MethodFault as error:
        raise VmError(_text(error)) from error
    except BROKEN as error:
        raise VmError(f"the vCenter {_connection_text(error)}") from error


def _text(fault: vmodl.MethodFault) -> str:
    kind = type(fault).__name__.rpartition(".")[2]
    return one_line(f"{fault.msg} ({kind})" if fault.msg else kind)


def _wait(task: vim.Task) -> None:
    """Wait for the end of a task; raise its fault."""
    end_s = time.monotonic() + TASK_S
    pauses = iter(_POLL_S)
    pause_s = 0.0
    while time.monotonic() < end_s:
        info = task.info
        if info.state == vim.TaskInfo.State.success:
            return
        if info.state == vim.TaskInfo.State.error:
            raise info.error
        pause_s = next(pauses, pause_s)
        time.sleep(pause_s)
    raise VmError(f"the task timed out after {TASK_S:.0f} s: does the VM wait for an answer?")
