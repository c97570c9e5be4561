"""The file for cloudbase-init, run by cloudbase-init's own program with the real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloudbaseinit.plugins.common import userdatautils

from tests.bridge import BridgeProcess
from tests.process import CHECKOUT, LIMIT_S, ServerProcess, run
from vmw_cloudinit_metadata.guest.image import joined
from vmw_cloudinit_metadata.instance.advice import warnings_of
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.parsing import seed
from vmw_cloudinit_metadata.instance.userdata import misread

DOCUMENT = (CHECKOUT / "docs/windows.md").read_text()
CONFIGURATIONS = re.findall(r"```ini\n(\[DEFAULT\]\n.*?)```", DOCUMENT, re.DOTALL)
MAC = "00:50:56:01:02:03"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f admin"
INSTANCE = f"""\
metadata:
  instance-id: i-windows
  hostname: a-long-windows-name
  public-keys: {{admin: {KEY}}}
  admin-username: operator
  admin-password: s3cret-Passw0rd
network:
  mac-address: {MAC}
  address: [192.168.1.11/24, '2001:db8::11/64']
  gateway: [192.168.1.254, '2001:db8::1']
  nameservers: [8.8.8.8]
  routes: [{{to: 10.0.0.0/8, via: 192.168.1.2}}]
userdata: |
  #!/bin/sh
  echo s3cret-of-user-data > ran
"""
# Those plugins of cloudbase-init that do nothing of Windows by themselves.
PLUGINS = """\
plugins=cloudbaseinit.plugins.common.sethostname.SetHostNamePlugin,\
fakewindows.CreateUserPlugin,\
cloudbaseinit.plugins.common.networkconfig.NetworkConfigPlugin,\
cloudbaseinit.plugins.common.sshpublickeys.SetUserSSHPublicKeysPlugin,\
cloudbaseinit.plugins.common.userdata.UserDataPlugin,\
cloudbaseinit.plugins.common.setuserpassword.SetUserPasswordPlugin
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The guest's end of a bridge to a real server."""
    instances = tmp_path_factory.mktemp("windows") / "instances"
    instances.mkdir()
    (instances / "web1.yaml").write_text(INSTANCE)
    server = ServerProcess(instances)
    bridge = BridgeProcess(server.port, "--pty")
    yield bridge.wait_for(r"(/dev/pts/\d+)")[1]
    assert bridge.end() == 0
    server.end()


class CloudbaseInit:
    """cloudbase-init in a process, with the file as it ships, and a faked Windows below it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "vmwmetadata.py").write_text(joined.cloudbase_init())

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def run(self, configuration: str) -> list[object]:
        """Return what it changed in Windows."""
        file = self.directory / "cloudbase-init.conf"
        file.write_text(configuration)
        done = subprocess.run(
            [
                *(sys.executable, str(CHECKOUT / "tests/fakewindows.py"), "--debug"),
                *("--config-file", str(file), "--log-file", str(self.directory / "log")),
            ],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": str(self.directory),
                "ADAPTERS": json.dumps({"": "00:50:56:09:09:09", "Ethernet0": MAC}),
                "HOME": str(self.directory),
            },
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        changes: list[object] = json.loads(done.stdout.splitlines()[-1])
        return changes


@pytest.fixture
def cloudbase_init(tmp_path: Path) -> CloudbaseInit:
    return CloudbaseInit(tmp_path)


def configuration(port: str, rest: str = "") -> str:
    return (
        f"[DEFAULT]\nusername=Admin\nmetadata_services=vmwmetadata.VmwMetadataService\n{PLUGINS}"
        f"[vmwmetadata]\nport={port}\n{rest}"
    )


def test_machine_is_set_up_from_the_server(cloudbase_init: CloudbaseInit, port: str) -> None:
    changes = cloudbase_init.run(configuration(port))
    done = [change for change in changes if isinstance(change, list) and change[0] == "done"]
    assert [change for change in changes if change not in done and change[:1] != ["password"]] == [
        ["host name", "a-long-windows-"[:14] + "0"],
        ["user", "operator"],
        ["group", "operator", "Administrators"],
        ["static", "Ethernet0", "192.168.1.11/24", "192.168.1.254", ["8.8.8.8"], 4],
        ["static", "Ethernet0", "2001:db8::11/64", "2001:db8::1", ["8.8.8.8"], 6],
        ["change password", "operator"],
    ]
    assert ["password", "operator", "s3cret-Passw0rd"] in changes
    assert {change[2] for change in done} == {"i-windows/Plugins"}
    assert len(done) == len(PLUGINS.split(","))
    keys = cloudbase_init.directory / "operator/.ssh/authorized_keys"
    assert KEY in keys.read_text()
    assert (cloudbase_init.directory / "ran").read_text() == "s3cret-of-user-data\n"
    assert "the data came over" in cloudbase_init.log
    assert "the route to 10.0.0.0/8 is not set" in cloudbase_init.log
    assert "s3cret" not in cloudbase_init.log
    assert "Traceback" not in cloudbase_init.log


def test_unknown_and_invalid_settings_are_in_the_log(cloudbase_init: CloudbaseInit) -> None:
    changes = cloudbase_init.run(configuration("COM1", "timeot=3\ntimeout=soon\n"))
    assert changes == []
    assert "unknown key timeot in [vmwmetadata]: it has no effect" in cloudbase_init.log
    assert "the configuration is invalid: Value for option timeout" in cloudbase_init.log
    assert "No metadata service found" in cloudbase_init.log


READ = """
import json, sys
from cloudbaseinit.conf import CONF
CONF(["--config-file", sys.argv[1]])
from cloudbaseinit.utils.classloader import ClassLoader
loaded = [ClassLoader().load_class(path) for path in (*CONF.metadata_services, *CONF.plugins)
          if "windows" not in path]
print(json.dumps([*CONF.vmwmetadata.values(), CONF.allow_reboot, CONF.metadata_services]))
"""


@pytest.mark.parametrize("number", range(2))
def test_configuration_of_the_document_is_what_cloudbase_init_reads(
    cloudbase_init: CloudbaseInit, number: int
) -> None:
    file = cloudbase_init.directory / "cloudbase-init.conf"
    file.write_text(CONFIGURATIONS[number])
    output = subprocess.run(
        [sys.executable, "-c", READ, str(file)],
        env={**os.environ, "PYTHONPATH": str(cloudbase_init.directory)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    is_unattended = number == 1
    assert json.loads(output.stdout) == [
        "COM1",
        *([30.0, 4.0] if is_unattended else [120.0, 4.0]),
        not is_unattended,
        ["vmwmetadata.VmwMetadataService"],
    ]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("#ps1\nls\n", True),
        ("#ps1_sysnative\r\nls\r\n", True),
        ("#ps1_x86\nls\n", True),
        ("rem cmd\ndir\n", True),
        ("<powershell>ls</powershell>", True),
        ("<script>dir</script>", True),
        ("#PS1\nls\n", False),
        ("#ps2\nls\n", False),
        ("remark\n", False),
    ],
)
def test_user_data_that_cloudbase_init_runs_has_no_warning(text: str, runs: bool) -> None:
    found = list(misread.faults_in(text.encode(), "userdata"))
    assert [bool(userdatautils.get_command(text.encode())), found == []] == [runs, runs]


def test_instance_file_of_the_document_is_valid() -> None:
    text = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)[0]
    instance = InstanceData.from_mapping(seed.read(text).value)
    assert list(warnings_of(instance)) == []


def test_printed_file_is_the_joined_one_and_runs_under_old_pythons(tmp_path: Path) -> None:
    text = run("guest", "print", "cloudbase-init").stdout
    assert text == joined.cloudbase_init()
    assert not re.search(r"^\s*(from|import) vmw_", text, re.MULTILINE)
    file = tmp_path / "vmwmetadata.py"
    file.write_text(text)
    vermin = Path(sys.executable).parent / "vermin"
    command = [str(vermin), "--target=3.7-", "--violations", str(file)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
