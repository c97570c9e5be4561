"""Converts between pyVmomi's types and ours: devices -> ports, steps -> ConfigSpec. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pyVmomi import vim

from vmw_cloudinit_metadata.guest.vsphere.portplan import (
    Add,
    Backing,
    Connect,
    Edit,
    Port,
    Remove,
    Step,
    Wanted,
)

_SerialPort = vim.vm.device.VirtualSerialPort
_Spec = vim.vm.device.VirtualDeviceSpec
_NEW_KEY = -1  # vSphere assigns the real one


def ports_of(devices: Iterable[vim.vm.device.VirtualDevice]) -> list[Port]:
    """Return the serial ports backed by the network; others are left alone."""
    return [_port(device) for device in devices if _is_on_network(device)]


def config_spec(step: Step, devices: Iterable[vim.vm.device.VirtualDevice]) -> vim.vm.ConfigSpec:
    """Return the specification that carries out one step on a VM with these devices."""
    by_key = {device.key: device for device in devices}
    match step:
        case Add(wanted):
            change = _Spec(operation=_Spec.Operation.add, device=_device(_NEW_KEY, wanted))
        case Edit(key, wanted):
            device = by_key[key]
            device.backing = _backing(wanted.backing)
            device.yieldOnPoll = wanted.yield_on_poll
            change = _Spec(operation=_Spec.Operation.edit, device=device)
        case Remove(key):
            change = _Spec(operation=_Spec.Operation.remove, device=by_key[key])
        case Connect(key, is_connected):
            device = by_key[key]
            device.connectable = _connectable(is_connected)
            change = _Spec(operation=_Spec.Operation.edit, device=device)
    return vim.vm.ConfigSpec(deviceChange=[change])


def _is_on_network(device: vim.vm.device.VirtualDevice) -> bool:
    return isinstance(device, _SerialPort) and isinstance(
        device.backing, _SerialPort.URIBackingInfo
    )


def _port(device: vim.vm.device.VirtualSerialPort) -> Port:
    backing = device.backing
    return Port(
        key=device.key,
        label=device.deviceInfo.label if device.deviceInfo else f"device {device.key}",
        backing=Backing(backing.serviceURI, backing.proxyURI or None, backing.direction),
        yield_on_poll=device.yieldOnPoll,
        is_connected=bool(device.connectable and device.connectable.connected),
    )


def _device(key: int, wanted: Wanted) -> vim.vm.device.VirtualSerialPort:
    return _SerialPort(
        key=key,
        backing=_backing(wanted.backing),
        connectable=_connectable(True),
        yieldOnPoll=wanted.yield_on_poll,
    )


def _backing(backing: Backing) -> vim.vm.device.VirtualSerialPort.URIBackingInfo:
    return _SerialPort.URIBackingInfo(
        serviceURI=backing.service_uri, proxyURI=backing.proxy_uri, direction=backing.direction
    )


def _connectable(is_connected: bool) -> vim.vm.device.VirtualDevice.ConnectInfo:
    """Return connection settings that the guest cannot change: disconnected, it would boot without
    data, unnoticed."""
    return vim.vm.device.VirtualDevice.ConnectInfo(
        startConnected=True, allowGuestControl=False, connected=is_connected
    )
