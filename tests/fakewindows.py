"""Windows for cloudbase-init: an osutils that notes each change, as strict as the real one."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from typing import Any

from cloudbaseinit import exception
from cloudbaseinit.osutils import base

# Names and MAC addresses of the adapters; a test sets its own.
adapters: dict[str, str] = {}
changes: list[list[Any]] = []


class PosixUtils(base.BaseOSUtils):  # type: ignore[misc]
    """What factory.get_os_utils() returns, if this module is `cloudbaseinit.osutils.posix`."""

    def get_network_adapters(self) -> list[tuple[str | None, str]]:
        return [(name or None, mac) for name, mac in adapters.items()]

    def get_network_adapter_name_by_mac_address(self, mac_address: str) -> str:
        for name, mac in adapters.items():
            if mac.lower() == mac_address.lower():
                return name
        raise exception.ItemNotFoundException(f"no adapter with {mac_address}")

    def rename_network_adapter(self, old_name: str, new_name: str) -> None:
        adapters[new_name] = adapters.pop(old_name)
        changes.append(["rename", old_name, new_name])

    def set_network_adapter_mtu(self, name: str, mtu: int) -> None:
        self._check(name)
        changes.append(["mtu", name, int(mtu)])

    def enable_network_adapter(self, name: str, _enabled: bool) -> None:
        self._check(name)

    def create_network_team(self, *team: Any) -> None:
        name, _, _, members, _, nic = team[:6]
        for member in members:
            self._check(member)
        adapters[nic] = f"team {name}"
        changes.append(["team", name, members, nic])

    def add_network_team_nic(self, team_name: str, nic_name: str, vlan_id: int) -> None:
        if f"team {team_name}" not in adapters.values():
            raise exception.ItemNotFoundException(f"no team {team_name}")
        adapters[nic_name] = ""
        changes.append(["vlan", team_name, nic_name, int(vlan_id)])

    def set_static_network_config(
        self, name: str, address: str, length: str, gateway: str | None, servers: list[str]
    ) -> bool:
        self._check(name)
        interface = ipaddress.ip_interface(f"{address}/{length}")
        if gateway is not None and ipaddress.ip_address(gateway).version != interface.version:
            raise exception.CloudbaseInitException(f"{gateway} is of another family")
        for server in servers:
            ipaddress.ip_address(server)
        same = [c for c in changes if c[:2] == ["static", name] and c[5] == interface.version]
        for change in same:  # Windows removes the addresses of this family first
            changes.remove(change)
        changes.append(["static", name, str(interface), gateway, servers, interface.version])
        return False

    def _check(self, name: str) -> None:
        if name not in adapters:
            raise exception.ItemNotFoundException(f"no adapter {name}")

    def set_host_name(self, new_host_name: str) -> bool:
        changes.append(["host name", new_host_name])
        return False

    def user_exists(self, username: str) -> bool:
        return ["user", username] in changes

    def create_user(self, username: str, _password: str, _expires: bool = False) -> None:
        changes.append(["user", username])

    def set_user_password(self, username: str, password: str, _expires: bool = False) -> None:
        changes.append(["password", username, password])

    def add_user_to_local_group(self, username: str, groupname: str) -> None:
        changes.append(["group", username, groupname])

    def change_password_next_logon(self, username: str) -> None:
        changes.append(["change password", username])

    def get_user_home(self, username: str) -> str:
        return os.path.join(os.environ["HOME"], username)

    def get_config_value(self, _name: str, _section: str | None = None) -> None:
        return None

    def set_config_value(self, name: str, _value: object, section: str | None = None) -> None:
        changes.append(["done", name, section])


def main() -> None:
    """Run cloudbase-init's own program with the options given; print the changes as JSON."""
    from cloudbaseinit import shell
    from cloudbaseinit.plugins.common import createuser

    class CreateUserPlugin(createuser.BaseCreateUserPlugin):  # type: ignore[misc]
        """The one of Windows logs on as the user, for a profile."""

        def create_user(self, username: str, password: str, osutils: PosixUtils) -> None:
            osutils.create_user(username, password)

        def post_create_user(self, username: str, password: str, osutils: PosixUtils) -> None:
            pass

    module = sys.modules[__name__]
    module.CreateUserPlugin = CreateUserPlugin  # type: ignore[attr-defined]
    sys.modules["cloudbaseinit.osutils.posix"] = sys.modules["fakewindows"] = module
    adapters.update(json.loads(os.environ["ADAPTERS"]))
    shell.main()
    print(json.dumps(changes))


if __name__ == "__main__":
    main()
