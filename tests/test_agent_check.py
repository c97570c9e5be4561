"""The guest agent's settings, and its `--check`: what in an image stands against it."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest import AGENT, GUEST, QUICK, Guest, Serial, mostly_slow
from tests.uart import DOCUMENTS, server_of, silent
from vmw_cloudinit_metadata.guest.agent import conf, obstacles, texts
from vmw_cloudinit_metadata.guest.agent.documentset import sha256
from vmw_cloudinit_metadata.guest.agent.obstacles import Image, check_datasources
from vmw_cloudinit_metadata.guest.agent.seeddirectory import Memory, SeedDir
from vmw_cloudinit_metadata.guest.agent.system import System

CONFIG = "etc/vmw-metadata-agent.conf"
UNIT = "vmw-metadata-agent.service"
LIBEXEC = "usr/libexec/vmw-metadata-agent"

# Settings


def test_configuration_file_is_heard(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS), "ttyS5")
    guest.add_port("ttyS1", kind=4)
    guest.write(CONFIG, "[agent]\ndevice = /dev/ttyS5  # ours\nseed-dir: /srv/seed\n")
    assert "on /dev/ttyS5" in guest.fetch()
    assert (guest.root / "srv/seed/meta-data").exists()


def test_command_line_is_heard_before_the_configuration_file(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS), "ttyS5")
    guest.write("srv/agent.conf", "[agent]\ndevice = /dev/ttyS6\nretry = 0.2\n")
    guest.fetch("--config", "/srv/agent.conf", "--device", "/dev/ttyS5")
    assert guest.metadata["instance-id"] == "i-1"


@pytest.mark.parametrize(
    ("text", "expected"),
    mostly_slow(
        ("[agent]\n\ndevcie = /dev/ttyS9\n", ":3: unknown key devcie: did you mean device?"),
        ("[DEFAULT]\nretry = 1\n", ":1: found [DEFAULT], expected [agent]"),
        ("[agent]\nseed-dir = /\n", ":2: seed-dir: found '/', expected a path"),
        ("[agent]\ndevice = /dev/\0\n", "device: found '/dev/\\x00', expected a path"),
        ("[agent]\nzzz = 1\n", ":2: unknown key zzz: expected one of device, seed-dir"),
        ("[agent]\nretry = soon\n", ":2: retry: found 'soon', expected a number of seconds"),
        ("[agent]\nretry = nan\n", ":2: retry: found 'nan', expected a number of seconds"),
        ("[agent]\nseed-dir = here\n", ":2: seed-dir: found 'here', expected a path"),
        ("[agent]\ngate = open\n", ":2: gate: found 'open', expected vmware or off"),
        ("[agent]\nkeep-instance-id = perhaps\n", "found 'perhaps', expected yes or no"),
        ("[agnet]\nretry = 1\n", ":1: found [agnet], expected [agent]"),
        ("retry = 1\n", "file ignored: "),
        ("[agent]\n= 5\nwhat\n", "file ignored: "),
        ("[agent]\n\xff\x00 = \x1b\n", "unknown key"),
    ),
)
def test_configuration_that_is_wrong_is_reported_and_the_boot_goes_on(
    guest: Guest, serial: Serial, text: str, expected: str
) -> None:
    serial(server_of(DOCUMENTS))
    place = guest.write(CONFIG, text)
    journal = guest.fetch()
    assert expected in journal
    assert str(place) in journal
    assert journal.splitlines()[0] in guest.console
    assert guest.metadata["instance-id"] == "i-1"


def test_configuration_that_cannot_be_read_is_reported(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    os.mkfifo(guest.root / CONFIG)
    assert f"{CONFIG}: cannot be read: not a regular file" in guest.fetch()
    assert "/etc/mine.conf: cannot be read: No such file" in guest.fetch(
        "--config", "/etc/mine.conf"
    )


def test_right_keys_beside_a_wrong_one_are_heard(guest: Guest, serial: Serial) -> None:
    serial(silent)
    guest.write(CONFIG, "[agent]\nwrong = 1\nfirst-boot-timeout = 0.3\nretry = 0.2\n")
    assert "without data" in guest.fetch()


@pytest.mark.parametrize(
    "options",
    [
        *(("--timeout", "soon"), ("--unknown",), ("--on-failure", "cry"), ("--retry", "0")),
        ("--config", "here.conf"),
    ],
)
def test_command_line_that_is_wrong_is_exit_code_2(guest: Guest, options: tuple[str, ...]) -> None:
    ended = guest.run(*options)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("vmw-metadata-agent: error: ")
    assert "Traceback" not in ended.stderr


def test_example_configuration_has_each_setting_with_its_default(tmp_path: Path) -> None:
    text = (GUEST / "vmw-metadata-agent.conf").read_text()
    place = tmp_path / "agent.conf"
    place.write_text(re.sub(r"^#(?=[a-z-]+ = )", "", text, flags=re.MULTILINE))
    settings, faults = conf.read_config(str(place))
    assert faults == []
    defaults = {**conf.defaults(), "device": "/dev/ttyS1", "timeout": 300.0}
    assert settings == defaults
    parser = configparser.ConfigParser()
    parser.read_string(text)
    assert dict(parser["agent"]) == {}


# The unit and the clean script


def test_cloud_init_clean_passes_over_a_seed_dir_that_the_agent_does_not_take(
    guest: Guest, serial: Serial
) -> None:
    serial(server_of(DOCUMENTS))
    guest.write(CONFIG, "[agent]\nseed-dir = here\n")
    guest.fetch()
    clean(guest)
    assert not guest.seed.exists()


def unit_seconds(key: str) -> float:
    return float(re.search(rf"^{key}=(\d+)$", (GUEST / UNIT).read_text(), re.MULTILINE)[1])  # type: ignore[index]


def test_unit_waits_longer_than_the_agent() -> None:
    assert unit_seconds("TimeoutStartSec") > conf.defaults()["longest-wait"] + 60


@pytest.mark.parametrize("seed_dir", ["/var/lib/cloud/seed/nocloud", "/srv/own seed"])
def test_cloud_init_clean_removes_the_seed(guest: Guest, serial: Serial, seed_dir: str) -> None:
    serial(server_of(DOCUMENTS))
    guest.write(CONFIG, f"[agent]\n#seed-dir = /other\nseed-dir = {seed_dir}/  # ours\n")
    guest.fetch()
    place = guest.root / seed_dir.lstrip("/")
    assert (place / "meta-data").exists()
    (place.parent / "nocloud.backup-of-an-operator").mkdir()
    clean(guest)
    assert [path.name for path in place.parent.iterdir()] == ["nocloud.backup-of-an-operator"]


def test_cloud_init_clean_leaves_a_seed_of_others(guest: Guest) -> None:
    guest.write("var/lib/cloud/seed/nocloud/meta-data", "instance-id: theirs\n")
    clean(guest)
    assert guest.metadata_text == "instance-id: theirs\n"


def clean(guest: Guest) -> None:
    environment = {"CLEAN_ROOT": str(guest.root), "PATH": "/usr/bin:/bin"}
    subprocess.run([str(GUEST / "clean-seed")], env=environment, check=True, timeout=30)


# The check


@pytest.fixture
def image(guest: Guest) -> Guest:
    """One in which everything is right."""
    (guest.root / "sys/class/tty").rmdir()
    (guest.root / "proc/consoles").unlink()
    guest.write("usr/bin/cloud-init", "")
    guest.write("usr/bin/python3", "")
    guest.write("etc/cloud/cloud.cfg", "users: [default]\nnetwork: {config: disabled}\n")
    guest.write("etc/cloud/cloud.cfg.d/90_dpkg.cfg", "datasource_list: [ Ec2, None ]\n")
    guest.write("etc/cloud/cloud.cfg.d/98-net.cfg", "network: null\n")
    config = (GUEST / "99-nocloud.cfg").read_text()
    guest.write("etc/cloud/cloud.cfg.d/99-nocloud.cfg", config)
    guest.write(LIBEXEC, AGENT.read_text())
    guest.write(f"etc/systemd/system/{UNIT}", (GUEST / UNIT).read_text())
    wanted = guest.root / "etc/systemd/system/cloud-init.target.wants"
    wanted.mkdir()
    (wanted / UNIT).symlink_to(f"/etc/systemd/system/{UNIT}")
    return guest


def check(guest: Guest, *options: str) -> tuple[int, str]:
    ended = guest.run("--check", *options)
    assert ended.stderr == ""
    return ended.returncode, ended.stdout


def test_good_image_has_no_finding(image: Guest) -> None:
    assert check(image, "--device", "/dev/ttyS1") == (0, "no problems found\n")


def mask(unit: str) -> Callable[[Guest], None]:
    def change(image: Guest) -> None:
        place = image.root / "etc/systemd/system" / unit
        place.unlink(missing_ok=True)
        place.symlink_to("/dev/null")

    return change


def wrote(path: str, text: str = "") -> Callable[[Guest], None]:
    return lambda image: image.write(path, text) and None


def without(path: str) -> Callable[[Guest], None]:
    return lambda image: (image.root / path).unlink()


CLOUD = "etc/cloud/cloud.cfg.d"
GRUB = "etc/default/grub"
FINDINGS = {
    "no-cloud-init": (without("usr/bin/cloud-init"), "install cloud-init"),
    "disabled": (wrote("etc/cloud/cloud-init.disabled"), "cloud-init is disabled"),
    "disabled-by-kernel": (
        wrote(GRUB, 'GRUB_CMDLINE_LINUX="quiet cloud-init=disabled"\n'),
        "/etc/default/grub: remove cloud-init=disabled",
    ),
    "no-network-by-kernel": (
        wrote("boot/loader/entries/a.conf", "options root=x network-config=disabled\n"),
        "/boot/loader/entries/a.conf: remove network-config=disabled",
    ),
    "cloud-init-masked": (mask("cloud-init-local.service"), "cloud-init-local.service is masked"),
    "network-disabled": (
        wrote(f"{CLOUD}/99-off.cfg", "network:\n  config: disabled\n"),
        "/etc/cloud/cloud.cfg.d/99-off.cfg: network: {config: disabled}",
    ),
    "later-list": (
        wrote(f"{CLOUD}/99-zz.cfg", "datasource_list:\n- VMware\n- None\n"),
        "/etc/cloud/cloud.cfg.d/99-zz.cfg: the last datasource_list lacks NoCloud",
    ),
    "earlier-list-only": (without(f"{CLOUD}/99-nocloud.cfg"), "90_dpkg.cfg: the last"),
    "policy": (wrote("etc/cloud/ds-identify.cfg", "policy: disabled\n"), "policy: disabled"),
    "disc": (wrote("dev/disk/by-label/cidata"), "overrides the seed"),
    "getty": (
        wrote("etc/systemd/system/getty.target.wants/serial-getty@ttyS1.service"),
        "serial-getty@ttyS1.service uses the port: run `guest install` again, with --free-console",
    ),
    "console": (
        wrote(GRUB, "GRUB_CMDLINE_LINUX='console=tty0 console=ttyS1,115200n8'\n"),
        "/etc/default/grub: console=ttyS1 uses the port",
    ),
    "no-agent": (without(LIBEXEC), "install the agent"),
    "no-unit": (without(f"etc/systemd/system/{UNIT}"), "install it in /usr/lib/systemd/system"),
    "masked": (mask(UNIT), f"/root unmask {UNIT}"),
    "not-enabled": (
        without(f"etc/systemd/system/cloud-init.target.wants/{UNIT}"),
        f"/root enable {UNIT}",
    ),
    "no-interpreter": (without("usr/bin/python3"), "/usr/bin/python3: is missing and is needed"),
    "no-labels": (wrote("etc/selinux/config", "SELINUX=enforcing\n"), "no SELinux label"),
    "configuration": (wrote(CONFIG, "[agent]\nretyr = 1\n"), "did you mean retry?"),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_finding_is_reported(image: Guest, name: str) -> None:
    change, expected = FINDINGS[name]
    change(image)
    code, text = check(image, "--device", "/dev/ttyS1")
    assert (code, text.count("\n")) == (1, 2 if name == "no-labels" else 1), text
    assert expected in text


def tree_with_links(image: Guest) -> None:
    """What is in it is reached by absolute links only, as in /etc/alternatives."""
    for name in ("etc", "usr"):
        (image.root / name).rename(image.root / f"{name}.real")
        (image.root / name).symlink_to(f"/{name}.real")


def test_links_lead_where_the_image_sees_them(image: Guest) -> None:
    tree_with_links(image)
    assert check(image, "--device", "/dev/ttyS1")[0] == 0
    (image.root / "etc.real/cloud/cloud-init.disabled").write_text("")
    assert "cloud-init is disabled" in check(image)[1]


@pytest.mark.parametrize("up", ["", "../../../../../.."])
def test_links_lead_to_nothing_outside_the_image(image: Guest, tmp_path: Path, up: str) -> None:
    outside = tmp_path / "outside.cfg"
    outside.write_text("datasource_list: [Ec2]\n")
    (image.root / CLOUD / "99-z.cfg").symlink_to(f"{up}{outside}")
    (image.root / "loop").symlink_to("/loop")
    (image.root / CLOUD / "99-zz.cfg").symlink_to("/loop/a")
    assert check(image) == (0, "no problems found\n")


def test_links_in_a_seed_lead_to_nothing_outside_the_image(image: Guest, tmp_path: Path) -> None:
    files = {"meta-data": b"instance-id: i-1\n", "user-data": b""}
    digests = {name: sha256(content) for name, content in files.items()}
    SeedDir(str(tmp_path / "outside")).publish(files, Memory("other", "i-1", "i-1", digests))
    shutil.copytree(tmp_path / "outside", image.seed)
    assert "belongs to another machine" in check(image)[1]
    shutil.rmtree(image.seed)
    image.seed.mkdir()
    for path in (tmp_path / "outside").iterdir():
        (image.seed / path.name).symlink_to(path)
    assert check(image) == (0, "no problems found\n")


def test_links_of_a_port_lead_to_nothing_outside_the_image(image: Guest, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/port").symlink_to("ttyS1")
    (image.root / "dev/ports").symlink_to(tmp_path / "outside")
    assert System(str(image.root)).tty("/dev/ports/port") == "port"


def test_pipes_and_endless_files_hold_up_no_check(image: Guest) -> None:
    os.mkfifo(image.root / CLOUD / "50-pipe.cfg")
    os.mkfifo(image.root / "etc/default")
    os.truncate(image.write("etc/cloud/ds-identify.cfg", ""), 1 << 40)
    assert check(image)[0] == 0


def test_names_in_an_image_turn_no_terminal(image: Guest) -> None:
    image.write(f"{CLOUD}/99-z\x1b[31m\n.cfg", "datasource_list: [Ec2]\n")
    assert "99-z?[31m?.cfg: the last datasource_list" in check(image)[1]


def test_masked_getty_is_no_finding(image: Guest, serial: Serial) -> None:
    image.write("etc/systemd/system/getty.target.wants/serial-getty@ttyS1.service")
    mask("serial-getty@ttyS1.service")(image)
    assert check(image, "--device", "/dev/ttyS1")[0] == 0
    serial(server_of(DOCUMENTS))
    assert "on /dev/ttyS1" in image.fetch()


def test_port_that_a_link_leads_to_is_checked(image: Guest) -> None:
    image.add_port("ttyS1")
    (image.root / "dev/vmw-metadata").symlink_to("ttyS1")
    assert check(image, "--device", "/dev/vmw-metadata")[0] == 0
    image.write(GRUB, "GRUB_CMDLINE_LINUX='console=ttyS1'\n")
    assert "console=ttyS1 uses the port" in check(image, "--device", "/dev/vmw-metadata")[1]
    image.add_port("ttyS1", kind=0)
    assert "/dev/vmw-metadata: has no UART" in check(image, "--device", "/dev/vmw-metadata")[1]


def test_comment_of_a_boot_loader_is_no_finding(image: Guest) -> None:
    image.write(GRUB, "#GRUB_CMDLINE_LINUX=console=ttyS1\n")
    assert check(image, "--device", "/dev/ttyS1")[0] == 0


def test_labels_that_will_be_set_are_no_finding(image: Guest) -> None:
    image.write("etc/selinux/config", "SELINUX=enforcing\n")
    image.write(".autorelabel", "")
    assert check(image)[0] == 0


def test_other_interpreter_of_the_unit_is_looked_for(image: Guest) -> None:
    unit = (GUEST / UNIT).read_text().replace("/usr/bin/python3", "/usr/libexec/platform-python")
    image.write(f"etc/systemd/system/{UNIT}", unit)
    assert "/usr/libexec/platform-python" in check(image)[1]
    image.write("usr/libexec/platform-python", "")
    assert check(image)[0] == 0


def test_console_as_the_only_port_is_found_on_a_machine(image: Guest) -> None:
    image.add_port("ttyS0")
    image.write("proc/consoles", "ttyS0 -W- (EC p a) 4:64\n")
    assert "add a second serial port" in check(image)[1]


def test_port_that_is_not_there_is_found_on_a_machine(image: Guest) -> None:
    image.add_port("ttyS0")
    image.add_port("ttyS2", kind=0)
    assert "/dev/ttyS1: does not exist" in check(image, "--device", "/dev/ttyS1")[1]
    assert "no UART" in check(image, "--device", "/dev/ttyS2")[1]
    assert check(image, "--device", "/dev/ttyS0")[0] == 0


def test_seed_in_a_template_is_found(image: Guest, serial: Serial, tmp_path: Path) -> None:
    serial(server_of(DOCUMENTS))
    image.fetch(*QUICK)
    clone = image.clone(tmp_path / "clone", "564d0000-0000-0000-0000-000000000001")
    assert "belongs to another machine" in check(clone)[1]
    assert clone.seed.exists()


def test_check_sends_nothing(image: Guest, serial: Serial) -> None:
    uart = serial(server_of(DOCUMENTS))
    check(image)
    assert uart.written == b""


@pytest.mark.parametrize("text", [f"[agent]\nretry = 4{' ' * 9000}x\n", f"a{' ' * 100_000}b\n"])
def test_line_that_is_too_long_is_a_fault_of_the_file(tmp_path: Path, text: str) -> None:
    place = tmp_path / "agent.conf"
    place.write_text(text)
    settings, faults = conf.read_config(str(place))
    assert settings == {}
    assert "file ignored: a line has" in faults[0]


def test_faults_of_the_settings_are_reported_up_to_a_hundred(tmp_path: Path) -> None:
    place = tmp_path / "agent.conf"
    place.write_text("[agent]\n" + "".join(f"a{i} = 1\n" for i in range(1000)) + "retry = 5\n")
    settings, faults = conf.read_config(str(place))
    assert settings == {}
    assert len(faults) == 102
    assert "too many faults" in faults[-1]


@pytest.mark.parametrize("begun", ["ExecStart=", "[Service]\nExecStart=-"])
def test_program_with_a_nul_is_reported_as_missing(image: Guest, begun: str) -> None:
    image.write(f"etc/systemd/system/{UNIT}", f"{begun}/opt/py\0thon {AGENT}\n")
    assert "/opt/py: is missing and is needed to run the agent" in check(image)[1]


@pytest.mark.parametrize(
    "text",
    [
        "datasource_list: [\n" * 10_000,
        "datasource_list:" + "\n" * 200_000 + "x",
    ],
    ids=["begun again", "blank lines"],
)
def test_configuration_without_pyyaml_is_read_in_time_of_its_size(text: str) -> None:
    begun_s = time.process_time()
    assert obstacles.scan_lines(text) == {}
    assert time.process_time() - begun_s < 0.5  # 1 s, 111 s, as the square of the size


def test_metadata_without_pyyaml_is_read_in_time_of_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    lines = b"instance-id: 'i-1' \t\nlocal-hostname: web 1\nempty:   \nquote: \"\nhalf: 'a\n"
    expected = {"instance-id": "i-1", "local-hostname": "web 1", "quote": '"', "half": "'a"}
    assert texts.load_mapping(lines) == expected
    begun_s = time.process_time()
    texts.load_mapping(b"a: x" + b" " * 100_000 + b"y")
    assert time.process_time() - begun_s < 0.5  # 27 s, as the square of the size


def test_large_policy_of_ds_identify_is_read_in_time_of_its_size(image: Guest) -> None:
    image.write("etc/cloud/ds-identify.cfg", "\n" * 100_000 + "policy: disabled\n")
    begun_s = time.process_time()
    found = list(check_datasources(Image(System(str(image.root)), {}, "")))
    assert any("policy: disabled" in line for line in found)
    assert time.process_time() - begun_s < 0.5  # 15 s, as the square of the size
