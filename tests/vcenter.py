"""Plays a vCenter: HTTPS, SOAP with pyVmomi on both sides, and the rules of vSphere for ports."""

from __future__ import annotations

import itertools
import re
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pyVmomi import SoapAdapter, vim, vmodl
from pyVmomi.VmomiSupport import GetVmodlType, Object

from tests.certificates import Pair

VERSION = "vim.version.version11"
NAMESPACES = (
    'xmlns="urn:vim25" xmlns:xsd="http://www.w3.org/2001/XMLSchema"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
)
PAGE = 2  # a real one may also give less than it is asked for
PASSWORD = "secret word & <more>"
USER = "administrator@vsphere.local"

ABOUT = (
    *("name", "fullName", "vendor", "version", "build", "osType", "productLineId", "apiType"),
    "apiVersion",
)
SerialPort = vim.vm.device.VirtualSerialPort


@dataclass
class PlayedVm:
    """A VM, and what was done to it."""

    name: str
    vc_uuid: str = ""
    power: str = "poweredOff"
    is_template: bool = False
    is_accessible: bool = True
    devices: list[Any] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    denies_after: int | None = None  # so many changes

    def ports(self) -> list[Any]:
        return [device for device in self.devices if isinstance(device, SerialPort)]


def port(key: int, uri: str, proxy: str | None, *, is_connected: bool, **further: Any) -> Any:
    """A serial port on the network, as vCenter describes it."""
    return SerialPort(
        key=key,
        unitNumber=key - 9000,
        controllerKey=400,
        deviceInfo=vim.Description(label=f"Serial port {key - 8999}", summary="Remote"),
        backing=SerialPort.URIBackingInfo(serviceURI=uri, proxyURI=proxy, direction="client"),
        connectable=vim.vm.device.VirtualDevice.ConnectInfo(
            startConnected=True, allowGuestControl=True, connected=is_connected
        ),
        yieldOnPoll=True,
        **further,
    )


class PlayedVCenter:
    """Serves until it is closed; `calls` counts the methods."""

    def __init__(self, pair: Pair, vms: list[PlayedVm]) -> None:
        self.vms = {f"vm-{number}": vm for number, vm in enumerate(vms, 1)}
        self.calls: Counter[str] = Counter()
        self.junk: str | None = None  # instead of all answers
        self.logged_in = 0
        self.most_at_a_time = 0
        self._busy = 0
        self._lock = threading.Lock()
        self._tasks: dict[str, Any] = {}
        self._rest: dict[str, list[Any]] = {}
        self._numbers = itertools.count(1)
        self._server = _server(self, pair)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, text: str) -> tuple[int, str]:
        """The answer to a request: status and SOAP."""
        if self.junk is not None:
            return 200, self.junk
        found = re.search(r"<soapenv:Body>\s*<(\w+)[^>]*>\s*<_this[^>]*>([^<]*)</_this>", text)
        assert found, text
        method, this = found.groups()
        self.calls[method] += 1
        try:
            result = getattr(self, f"_{method}")(this, text)
        except vmodl.MethodFault as fault:
            return 500, _fault(fault)
        body = "" if result is None else _soap(result)
        return 200, envelope(f'<{method}Response xmlns="urn:vim25">{body}</{method}Response>')

    def _RetrieveServiceContent(self, this: str, text: str) -> Any:  # noqa: ARG002, N802
        def reference(kind: type, name: str) -> Any:
            return kind(name, None)

        return vim.ServiceInstanceContent(
            rootFolder=reference(vim.Folder, "group-d1"),
            propertyCollector=reference(vmodl.query.PropertyCollector, "propertyCollector"),
            viewManager=reference(vim.view.ViewManager, "ViewManager"),
            sessionManager=reference(vim.SessionManager, "SessionManager"),
            searchIndex=reference(vim.SearchIndex, "SearchIndex"),
            about=vim.AboutInfo(**dict.fromkeys(ABOUT, "x")),
        )

    def _Login(self, this: str, text: str) -> Any:  # noqa: ARG002, N802
        given = _argument(text, "userName", str), _argument(text, "password", str)
        if given != (USER, PASSWORD):
            raise vim.fault.InvalidLogin(msg="Cannot complete login: wrong user name or password.")
        self.logged_in += 1

    def _Logout(self, this: str, text: str) -> None:  # noqa: ARG002, N802
        self.logged_in -= 1

    def _CreateContainerView(self, this: str, text: str) -> Any:  # noqa: ARG002, N802
        return vim.view.ContainerView("view-1", None)

    def _DestroyView(self, this: str, text: str) -> None:  # noqa: N802
        pass

    def _RetrievePropertiesEx(self, this: str, text: str) -> Any:  # noqa: ARG002, N802
        specs = _argument(text, "specSet", vmodl.query.PropertyCollector.FilterSpec)
        start = specs.objectSet[0]
        paths = specs.propSet[0].pathSet
        chosen = self.vms if start.selectSet else {start.obj._moId: self.vms[start.obj._moId]}
        return self._page([_content(key, vm, paths) for key, vm in chosen.items()])

    def _ContinueRetrievePropertiesEx(self, this: str, text: str) -> Any:  # noqa: ARG002, N802
        return self._page(self._rest.pop(_argument(text, "token", str)))

    def _page(self, objects: list[Any]) -> Any:
        token = None
        if len(objects) > PAGE:
            token = f"token-{next(self._numbers)}"
            self._rest[token] = objects[PAGE:]
        return vmodl.query.PropertyCollector.RetrieveResult(token=token, objects=objects[:PAGE])

    def _FindByInventoryPath(self, this: str, text: str) -> Any:  # noqa: ARG002, N802
        return None

    def _ReconfigVM_Task(self, this: str, text: str) -> Any:  # noqa: N802
        with self._lock:
            self._busy += 1
            self.most_at_a_time = max(self.most_at_a_time, self._busy)
        spec = _argument(text, "spec", vim.vm.ConfigSpec)
        info = vim.TaskInfo(
            key="task",
            task=vim.Task("task", None),
            descriptionId="x",
            cancelled=False,
            cancelable=False,
            reason=vim.TaskReasonUser(userName=USER),
            queueTime=datetime.now(UTC),
            eventChainId=1,
            state="success",
        )
        try:
            for change in spec.deviceChange:
                _apply(self.vms[this], change)
        except vmodl.MethodFault as fault:
            info.state = "error"
            info.error = fault
        name = f"task-{next(self._numbers)}"
        self._tasks[name] = [_running(info), info]
        return vim.Task(name, None)

    def _Fetch(self, this: str, text: str) -> Any:  # noqa: N802
        assert _argument(text, "prop", str) == "info"
        states = self._tasks[this]
        if len(states) > 1:
            return states.pop(0)
        with self._lock:
            self._busy -= 1
        return states[0]


def _running(info: Any) -> Any:
    values = {p.name: getattr(info, p.name) for p in info._GetPropertyList()}
    return vim.TaskInfo(**{**values, "state": "running", "error": None})


def _apply(vm: PlayedVm, change: Any) -> None:
    """vSphere's rules: ports come and go while the VM is off; a connected one keeps its backing."""
    if vm.denies_after is not None and len(vm.changes) >= vm.denies_after:
        raise vim.fault.NoPermission(msg="Permission to perform was denied.")
    is_on = vm.power != "poweredOff"
    device = change.device
    vm.changes.append(change.operation)
    if change.operation in ("add", "remove") and is_on:
        raise vim.fault.InvalidPowerState(
            msg="The attempted operation cannot be performed in the current state.",
            existingState=vm.power,
        )
    if change.operation == "add":
        number = len(vm.ports())
        device.key, device.unitNumber, device.controllerKey = 9000 + number, number, 400
        device.deviceInfo = vim.Description(label=f"Serial port {number + 1}", summary="Remote")
        device.connectable.connected = is_on
        vm.devices.append(device)
        return
    place = [known.key for known in vm.devices].index(device.key)
    if change.operation == "remove":
        del vm.devices[place]
        return
    old = vm.devices[place]
    moved = _soap(device.backing) != _soap(old.backing)
    if moved and is_on and old.connectable.connected:
        raise vim.fault.InvalidDeviceBacking(msg="Invalid backing.", deviceIndex=0, property="x")
    vm.changes[-1] += f" {'connected' if device.connectable.connected else 'disconnected'}"
    vm.devices[place] = device


def _content(key: str, vm: PlayedVm, paths: list[str]) -> Any:
    values = {
        "name": vm.name,
        "config.instanceUuid": vm.vc_uuid,
        "config.uuid": "",
        "config.template": vm.is_template,
        "runtime.powerState": vim.VirtualMachine.PowerState(vm.power),
        "config.hardware.device": GetVmodlType("vim.vm.device.VirtualDevice[]")(vm.devices),
    }
    if not vm.is_accessible:
        values = {name: value for name, value in values.items() if not name.startswith("config")}
    collector = vmodl.query.PropertyCollector
    return collector.ObjectContent(
        obj=vim.VirtualMachine(key, None),
        propSet=[
            vmodl.DynamicProperty(name=path, val=values[path]) for path in paths if path in values
        ],
    )


def _argument(text: str, name: str, kind: type) -> Any:
    """What a request says for a parameter, read by pyVmomi."""
    found = re.search(rf"<{name}\b.*</{name}>", text, re.DOTALL)
    assert found, text
    return SoapAdapter.Deserialize(found[0].replace(f"<{name}", f"<{name} {NAMESPACES}", 1), kind)


def _soap(value: Any) -> str:
    namespaces = {**SoapAdapter.SOAP_NSMAP, "urn:vim25": ""}
    info = Object(name="returnval", type=object, version=VERSION, flags=0)
    return str(SoapAdapter.SerializeToStr(value, info, VERSION, namespaces))


def _fault(fault: Any) -> str:
    namespaces = {**SoapAdapter.SOAP_NSMAP, "urn:vim25": ""}
    name = f"{type(fault).__name__.rpartition('.')[2]}Fault"
    info = Object(name=name, type=object, version=VERSION, flags=0)
    detail = SoapAdapter.SerializeFaultDetail(fault, info, VERSION, namespaces)
    return envelope(
        "<soapenv:Fault><faultcode>ServerFaultCode</faultcode>"
        f"<faultstring>{fault.msg}</faultstring><detail>{detail}</detail></soapenv:Fault>"
    )


def envelope(body: str) -> str:
    start = f"{SoapAdapter.XML_HEADER}\n{SoapAdapter.SOAP_ENVELOPE_START}"
    return (
        f"{start}{SoapAdapter.SOAP_BODY_START}{body}"
        f"{SoapAdapter.SOAP_BODY_END}{SoapAdapter.SOAP_ENVELOPE_END}"
    )


def _server(vcenter: PlayedVCenter, pair: Pair) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece: two would wait for each other 40 ms

        def do_POST(self) -> None:
            assert self.path == "/sdk"
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, answer = vcenter.answer(text)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer.encode())))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that does not trust us hangs up: it says so itself."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    return server
