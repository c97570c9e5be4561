"""What is in examples/ works as it stands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.process import CHECKOUT, ServerProcess, run
from tests.test_file_driver import driver_of
from tests.vm import Vm
from vmw_cloudinit_metadata.protocol.vmware import Machine

EXAMPLES = CHECKOUT / "examples"
NETBOX = EXAMPLES / "netbox"
WEB = "my-metadata?profile=web"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The example, with the modes that such files should have: git does not keep them."""
    path = tmp_path / "example"
    shutil.copytree(EXAMPLES / "instances", path)
    for file in path.rglob("*.*"):
        file.chmod(0o640)
    return path


def test_example_has_no_fault(directory: Path) -> None:
    ended = run("validate", "--driver-opts", json.dumps({"directory": str(directory)}))
    assert (ended.stdout, ended.stderr) == ("", "0 faults, 0 warnings\n")


def test_example_is_that_of_the_document(directory: Path) -> None:
    text = (CHECKOUT / "docs/layers.md").read_text()
    found = dict(re.findall(r"```yaml\n# (\S+\.yaml)(.*?)```", text, re.DOTALL))
    for name in ("layers/10-all.yaml", "layers/50-web.yaml", "web-ber-1.yaml"):
        assert (directory / name).read_text() == f"# {name}{found[name]}"


def test_server_serves_the_example(directory: Path, start: Callable[..., ServerProcess]) -> None:
    server = start("--uri", "my-metadata", driver_opts={"directory": str(directory)})
    web = Vm(server.port, "web-ber-1", vc_uuid="1" * 32, uri=WEB)
    assert web.metadata()["site"] == "ber"
    assert web.document("USERDATA") == b"#cloud-config\npackages:\n- nginx\n"
    assert web.document("ROLE") == b"web on web-ber-1"
    made_by_netbox = Vm(
        server.port, "web-muc-1", vc_uuid="42130a5c1f2e9d3b5c770e1f2a3b4c5e", uri=WEB
    )
    assert made_by_netbox.metadata()["rack"] == "r7"
    assert b"2001:db8:1::21" in made_by_netbox.document("NETWORKDATA")
    database = Vm(server.port, "db-ber-2", vc_uuid="3" * 32)
    assert b"db-ber-2, replica of ber" in database.document("USERDATA")
    assert Vm(server.port, "other", vc_uuid="4" * 32).error("METADATA") == "not-found"


def from_netbox(export: dict[str, Any], path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, NETBOX / "vms_from_netbox.py", path]
    text = json.dumps(export)
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_inventory_is_made_from_what_netbox_exports(tmp_path: Path) -> None:
    export = json.loads((NETBOX / "virtual-machines.json").read_text())
    made = tmp_path / "vms.yaml"
    assert from_netbox(export, made).returncode == 0
    assert made.read_text() == (EXAMPLES / "instances/vms.yaml").read_text()
    assert made.stat().st_mode & 0o777 == 0o640
    export["results"] += export["results"][-1:]
    ended = from_netbox(export, made)
    assert (ended.stderr, ended.returncode) == (
        "two VMs are called build-1: give them serial numbers\n",
        1,
    )
    assert from_netbox({**export, "next": "https://netbox.example.com/"}, made).returncode == 1
    assert made.read_text() == (EXAMPLES / "instances/vms.yaml").read_text()
    assert list(tmp_path.iterdir()) == [made]


def test_inventory_is_made_by_the_template_of_ansible(tmp_path: Path) -> None:
    jinja2 = pytest.importorskip("jinja2")
    place = EXAMPLES / "ansible"
    (play,) = yaml.safe_load((place / "playbook.yaml").read_text())
    assert play["tasks"][0]["ansible.builtin.template"]["src"] == "vms.yaml.j2"
    hosts = yaml.safe_load((place / "hosts.yaml").read_text())["vmware"]["hosts"]
    # as Ansible does
    environment = jinja2.Environment(
        trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((place / "vms.yaml.j2").read_text())
    text = template.render(groups={"vmware": hosts}, hostvars=hosts, ansible_managed="by Ansible")
    (tmp_path / "vms.yaml").write_text(text)
    (tmp_path / "vms.yaml").chmod(0o640)
    driver = driver_of(tmp_path)
    assert list(driver.validate()) == []
    uuid = hosts["mail-ber-1"]["vc_uuid"]
    found = driver.get_instance(Machine(name="mail-ber-1", vc_uuid=uuid))
    assert found
    assert found.metadata["role"] == 'mail: "in & out"'
    assert driver.get_instance(Machine(name="mail-ber-2"))
