"""`guest install`, `check`, `print` on trees of images: all kinds, changed ones, hostile ones."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.commandline import Ended, in_process
from tests.process import CHECKOUT, LIMIT_S, run
from tests.tree import FILES, GRUBENV, make_tree, picture, put
from vmw_cloudinit_metadata.guest.image import joined, parts
from vmw_cloudinit_metadata.guest.image.install import install as install_agent
from vmw_cloudinit_metadata.guest.image.kernel import without_console
from vmw_cloudinit_metadata.guest.image.parts import Choices
from vmw_cloudinit_metadata.guest.image.tree import File, Link, Tree
from vmw_cloudinit_metadata.settings.errors import ConfigError

AGENT = "usr/libexec/vmw-metadata-agent"
UNIT = "usr/lib/systemd/system/vmw-metadata-agent.service"
ENABLED = "etc/systemd/system/cloud-init.target.wants/vmw-metadata-agent.service"
REPORT_UNIT = UNIT.replace("agent", "report")
REPORT_ENABLED = ENABLED.replace("agent", "report")
PRESET = "usr/lib/systemd/system-preset/10-vmw-metadata-agent.preset"
MASKED = "usr/lib/systemd/system/serial-getty@ttyS0.service"
SETTINGS = "etc/vmw-metadata-agent.conf"
CONFIG = "etc/cloud/cloud.cfg.d/99-nocloud.cfg"
CLEAN = "etc/cloud/clean.d/50-vmw-metadata-agent"
DS_IDENTIFY = "etc/cloud/ds-identify.cfg"
RECORD = "usr/lib/vmw-metadata-agent/installed.json"
ALL_OPTIONS = (
    *("--free-console", "ttyS0", "--device", "/dev/ttyS0"),
    *("--network-every-boot", "--with-guestinfo"),
)
ALL_CHOICES = Choices("/dev/ttyS0", "ttyS0", network_every_boot=True, with_guestinfo=True)
PYTHONS = {
    "debian": "/usr/bin/python3",
    "ubuntu": "/usr/bin/python3",
    "rhel8": "/usr/libexec/platform-python",
    "rhel9": "/usr/bin/python3",
}
WITH_DEVICE = ("--device", "/dev/ttyS1")  # the agent's port; without it there is a warning
EACH_KIND = pytest.mark.parametrize("kind", FILES)


def install(root: Path, *options: str) -> Ended:
    return in_process("guest", "install", "--root", str(root), *options)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@EACH_KIND
def test_install_puts_everything_in_its_place(tmp_path: Path, kind: str) -> None:
    root = make_tree(tmp_path / "root", kind)
    code, out, _ = install(root)
    assert code == 0
    assert len(out) == 9
    assert (mode(root / AGENT), mode(root / CLEAN)) == (0o755, 0o755)
    assert (mode(root / UNIT), mode(root / SETTINGS), mode(root / CONFIG)) == (0o644,) * 3
    assert (root / ENABLED).readlink() == Path(f"/{UNIT}")
    assert (root / CONFIG).read_text() == "datasource_list: [NoCloud, None]\n"
    assert f"\nExecStart={PYTHONS[kind]} /{AGENT}\n" in (root / UNIT).read_text()
    assert f"\nExecStart=-{PYTHONS[kind]} /{AGENT} report\n" in (root / REPORT_UNIT).read_text()
    assert (root / REPORT_ENABLED).readlink() == Path(f"/{REPORT_UNIT}")
    assert not (root / DS_IDENTIFY).exists()


def test_install_without_report_removes_its_unit(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    install(root)
    code, out, _ = install(root, "--no-report")
    assert code == 0
    assert out == [f"removed  /{REPORT_ENABLED}", f"removed  /{REPORT_UNIT}"]
    assert not (root / REPORT_UNIT).exists()
    assert len(install(root)[1]) == 2
    assert (root / REPORT_ENABLED).readlink() == Path(f"/{REPORT_UNIT}")


def test_agent_of_rhel_8_begins_with_its_python(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "rhel8")
    install(root)
    first, _, rest = (root / AGENT).read_text().partition("\n")
    assert first == "#!/usr/libexec/platform-python"
    assert rest == joined.agent().partition("\n")[2]


@EACH_KIND
def test_install_twice_changes_nothing(tmp_path: Path, kind: str) -> None:
    root = make_tree(tmp_path / "root", kind)
    install(root, *ALL_OPTIONS)
    before = picture(root)
    assert install(root, *ALL_OPTIONS)[1] == ["nothing to do"]
    assert picture(root) == before


@EACH_KIND
def test_remove_leaves_the_tree_as_it_was(tmp_path: Path, kind: str) -> None:
    root = make_tree(tmp_path / "root", kind)
    before = picture(root)
    install(root)
    install(root, *ALL_OPTIONS)
    assert picture(root) != before
    code, out, _ = install(root, "--remove")
    assert code == 0
    assert out
    assert picture(root) == before
    assert install(root, "--remove")[1] == ["nothing to do"]


def test_other_options_begin_from_the_tree_as_it_was(tmp_path: Path) -> None:
    one, two = (make_tree(tmp_path / name, "debian") for name in ("one", "two"))
    install(one, *ALL_OPTIONS)
    install(one, "--network-every-boot")
    install(two, "--network-every-boot")
    for root in (one, two):
        (root / RECORD).unlink()
    assert picture(one) == picture(two)


def test_remove_leaves_what_others_changed_since(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    install(root, "--free-console", "ttyS0")
    put(root, SETTINGS, "[agent]\ntimeout = 9\n")
    put(root, "boot/grub/grub.cfg", "# made anew\n")
    put(root, "etc/systemd/system/cloud-init.target.wants/other.service", "")
    _, out, _ = install(root, "--remove")
    left = [line for line in out if line.startswith("left")]
    assert [line.split()[1] for line in left] == ["/boot/grub/grub.cfg", f"/{SETTINGS}"]
    assert (root / SETTINGS).read_text() == "[agent]\ntimeout = 9\n"
    assert (root / "boot/grub/grub.cfg").read_text() == "# made anew\n"
    assert (root / ENABLED).parent.is_dir()
    assert "console=ttyS0,115200" in (root / "etc/default/grub").read_text()
    assert not (root / AGENT).exists()


def test_files_that_were_there_before_come_back(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    put(root, CONFIG, "datasource_list: [Ec2]\n")
    put(root, SETTINGS, "[agent]\n# mine\n")
    put(root, DS_IDENTIFY, "datasource: Ec2\npolicy: disabled\n")
    before = picture(root)
    install(root, *ALL_OPTIONS)
    assert (root / SETTINGS).read_text() == "[agent]\ndevice = /dev/ttyS0\n# mine\n"
    assert (root / DS_IDENTIFY).read_text() == "datasource: Ec2\npolicy: enabled\n"
    install(root, "--remove")
    assert picture(root) == before


def test_settings_of_the_operator_stay(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    install(root)
    put(root, SETTINGS, "[agent]\ntimeout = 9\n")
    assert install(root)[1] == ["nothing to do"]
    assert (root / SETTINGS).read_text() == "[agent]\ntimeout = 9\n"


def test_newer_agent_replaces_an_older_one(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    before = picture(root)
    install(root)
    older = b"#!/usr/bin/python3\n# older\n"
    (root / AGENT).write_bytes(older)
    record = json.loads((root / RECORD).read_text())
    record["paths"][f"/{AGENT}"]["written"] = hashlib.sha256(older).hexdigest()
    (root / RECORD).write_text(json.dumps(record))
    assert install(root)[1] == [f"wrote    /{AGENT}"]
    assert (root / AGENT).read_text() == joined.agent()
    install(root, "--remove")
    assert picture(root) == before


class FullDisk(Tree):
    """A tree with room for some writes."""

    def __init__(self, root: Path, writes: int) -> None:
        super().__init__(root)
        self.left = writes

    def write(self, path: str, entry: File | Link) -> None:
        if not self.left:
            raise ConfigError("no space left")
        self.left -= 1
        super().write(path, entry)


@pytest.mark.parametrize("then", [ALL_OPTIONS, ("--remove",)], ids=["finished", "removed"])
@pytest.mark.parametrize("writes", range(12))
def test_installation_that_was_cut_short_can_be_undone(
    tmp_path: Path, writes: int, then: tuple[str, ...]
) -> None:
    root = make_tree(tmp_path / "root", "debian")
    before = picture(root)
    with pytest.raises(ConfigError, match="no space left"):
        install_agent(FullDisk(root, writes), ALL_CHOICES)
    install(root, *then)
    install(root, "--remove")
    assert picture(root) == before


NAMED = '{"paths": {"%s": {"before": null, "written": "x"}}, "directories": []}'


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ('{"paths": 5}', "installed.json is damaged"),
        ("[" * 100_000, "installed.json is damaged"),
        (NAMED % "/etc/\\u0000", "/etc/\\x00: embedded null byte"),
        (NAMED % "/etc/\\ud800\\n", "/etc/\\ud800\\n: "),
    ],
    ids=["number", "deep", "null-byte", "surrogate"],
)
def test_damaged_record_is_one_line_and_exit_2(tmp_path: Path, record: str, expected: str) -> None:
    root = make_tree(tmp_path / "root", "debian")
    put(root, RECORD, record)
    code, out, err = install(root, "--remove")
    assert (code, out, len(err)) == (2, [], 1)
    assert expected in err[0]


@pytest.mark.parametrize("first", ["#!/a\0python", "#!/usr/bin/python\\q", "#!/usr/bin/python\xff"])
def test_odd_interpreter_of_cloud_init_is_not_taken(tmp_path: Path, first: str) -> None:
    root = make_tree(tmp_path / "root", "debian")
    (root / "usr/bin/cloud-init").write_text(f"{first}\n", "latin-1")
    for name in ("python\\q", "python\udcff"):
        (root / "usr/bin" / name).write_text("")
        (root / "usr/bin" / name).chmod(0o755)
    assert install(root)[0] == 0
    assert "\nExecStart=/usr/bin/python3 " in (root / UNIT).read_text()


def test_names_in_a_tree_turn_no_terminal(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    put(root, "etc/cloud/cloud.cfg.d/99-z\x1b[31m\n.cfg", "datasource_list: [Ec2]\n")
    (output,) = install(root, *WITH_DEVICE)[2]
    assert "99-z\\x1b[31m\\n.cfg has a datasource_list" in output


# the options


def test_installation_without_a_device_is_warned_of(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    (output,) = install(root)[2]
    assert "no device is set in /etc/vmw-metadata-agent.conf" in output
    assert "--device /dev/ttyS1" in output
    assert install(root, *WITH_DEVICE)[2] == []


def test_device_is_set_where_it_was_commented_out(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    install(root, "--device", "/dev/ttyS1")
    text = (root / SETTINGS).read_text()
    assert text == parts.settings().replace("#device = /dev/ttyS1", "device = /dev/ttyS1")
    assert "\ndevice = /dev/ttyS1\n" in text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "\n[agent]\ndevice = D\n"),
        ("[agent]\n", "[agent]\ndevice = D\n"),
        ("[agent]\n#device = x\ndevice: y\n", "[agent]\n#device = x\ndevice = D\n"),
        ("[agent]\nDevice = y\n", "[agent]\ndevice = D\n"),
        ("[agent]\nretry = 3\n; device = x\n", "[agent]\nretry = 3\ndevice = D\n"),
        ("[agent]\r\nretry = 3", "[agent]\ndevice = D\r\nretry = 3"),
    ],
)
def test_device_is_set_in_any_settings(before: str, after: str) -> None:
    assert parts.with_device(before, "D") == after


def test_network_every_boot_and_guestinfo_are_in_the_one_file(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    install(root, "--network-every-boot", "--with-guestinfo")
    text = (root / CONFIG).read_text()
    assert yaml.safe_load(text) == {
        "datasource_list": ["NoCloud", "VMware", "None"],
        "updates": {"network": {"when": ["boot-new-instance", "boot"]}},
    }
    assert "datasource_list: [NoCloud, VMware, None]\n" in text
    assert (root / DS_IDENTIFY).read_text() == "policy: enabled\n"


@EACH_KIND
def test_free_console_takes_the_port_from_kernel_and_getty(tmp_path: Path, kind: str) -> None:
    root = make_tree(tmp_path / "root", kind)
    install(root, "--free-console", "/dev/ttyS0")
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and "metadata-agent" not in str(path):
            lines = path.read_text().splitlines()
            left = [line for line in lines if "=ttyS0" in line and not line.startswith("#")]
            assert left == [], path
    assert os.readlink(root / MASKED) == "/dev/null"


def test_grub_environment_keeps_its_length_and_its_link(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "rhel8")
    install(root, "--free-console", "ttyS0")
    text = (root / "boot/efi/EFI/redhat/grubenv").read_text()
    assert len(text) == 1024
    assert "\nkernelopts=root=/dev/sda1 ro no_timer_check crashkernel=auto\n#" in text
    assert (root / "boot/grub2/grubenv").is_symlink()
    assert text.rstrip("#") == GRUBENV.replace("console=ttyS0,115200n8 ", "").rstrip("#")


def test_grub_environment_without_padding_gets_none() -> None:
    """GRUB would read it as a part of the last value. Photon's are such files."""
    text = b"# GRUB Environment Block\nphoton_cmdline=ro console=ttyS0\nphoton_linux=vmlinuz"
    assert without_console(text, "ttyS0") == text.replace(b" console=ttyS0", b"")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('X="console=tty0 console=ttyS0,115200"', 'X="console=tty0"'),
        ('X="console=ttyS0,115200n8 quiet"', 'X="quiet"'),
        ("X='console=ttyS0'", "X=''"),
        ("X=console=ttyS0", "X="),
        ("a console=ttyS0 b\n", "a b\n"),
        ("a console=ttyS0\n", "a\n"),
        ("console=ttyS0 b\n", "b\n"),
        ("a console=ttyS01 console=ttyS1 xconsole=ttyS0", None),
        ("netconsole=ttyS0 console=ttyS0.x", None),
        ("a earlyprintk=serial,ttyS0,115200 b", "a b"),
        ("# a console=ttyS0\n", None),
        ("x\n\tlinux a  console=ttyS0  b\n", "x\n\tlinux a  b\n"),
        ('set x="a console=ttyS0 "\n', 'set x="a"\n'),
    ],
)
def test_console_is_taken_off_a_command_line(before: str, after: str | None) -> None:
    wanted = before if after is None else after
    assert without_console(before.encode(), "ttyS0").decode() == wanted


@given(st.lists(st.sampled_from(["quiet", "console=tty0", "ro", "root=/dev/sda1", "a=ttyS0,1"])))
def test_other_words_of_a_command_line_stay(words: list[str]) -> None:
    with_it = [*words[:2], "console=ttyS0,115200", *words[2:], "console=ttyS0"]
    changed = without_console(" ".join(with_it).encode(), "ttyS0").decode()
    assert changed.split() == words


def test_binary_junk_on_a_command_line_stays() -> None:
    assert without_console(b"\xff\x00 console=ttyS0 \xfe", "ttyS0") == b"\xff\x00 \xfe"


# what is reported


def test_later_datasource_list_is_reported(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "ubuntu")
    put(root, "etc/cloud/cloud.cfg.d/99_vendor.cfg", "a: 1\n datasource_list: [Azure]\n")
    code, _, err = install(root, *WITH_DEVICE)
    assert code == 0
    assert len(err) == 1
    assert "99_vendor.cfg has a datasource_list that overrides ours" in err[0]


def test_tree_without_anything_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    code, _, err = install(tmp_path, *WITH_DEVICE)
    assert code == 0
    assert [line.split(":")[1].split()[0] for line in err] == ["cloud-init", "no"]
    assert "ExecStart=/usr/bin/python3 " in (tmp_path / UNIT).read_text()


def test_grub_on_the_serial_port_is_reported(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    (output,) = install(root, *WITH_DEVICE, "--free-console", "ttyS0")[2]
    assert "/etc/default/grub:3: GRUB itself writes to a serial port" in output


def test_missing_labels_are_reported_with_the_remedy(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "rhel8")
    (output,) = install(root, *WITH_DEVICE)[2]
    assert f"setfiles -r {root} {root}/etc/selinux/targeted/contexts/files/file_contexts" in output
    assert f"{root}/{AGENT}" in output
    assert ".autorelabel" in output


def test_label_of_a_file_that_is_changed_stays(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    try:
        os.setxattr(root / "etc/default/grub", "security.selinux", b"system_u:object_r:etc_t:s0")
    except OSError:
        pytest.fail("needs a file system with labels, and root")
    install(root, "--free-console", "ttyS0")
    assert os.getxattr(root / "etc/default/grub", "security.selinux").startswith(b"system_u")


@EACH_KIND
def test_check_finds_nothing_in_a_good_tree(tmp_path: Path, kind: str) -> None:
    root = make_tree(tmp_path / "root", kind)
    install(root)
    (root / ".autorelabel").touch()
    assert in_process("guest", "check", "--root", str(root)) == (0, [], ["problems: 0"])


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    install(root)
    put(root, "etc/cloud/cloud-init.disabled", "")
    (root / "sbin/init").unlink()
    put(root, "sbin/init", "#!busybox\n")
    ended = run("guest", "check", "--root", str(root))
    assert ended.returncode == 1
    assert ended.stderr == "problems: 2\n"
    assert "/sbin/init is /usr/sbin/init: the agent needs systemd" in ended.stdout
    assert "cloud-init.disabled: cloud-init is disabled: remove" in ended.stdout


def test_check_of_a_tree_without_the_agent_says_so(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    code, out, _ = in_process("guest", "check", "--root", str(root))
    assert code == 1
    assert any(f"/{AGENT}" in line for line in out)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["install"], "--root"),
        (["install", "--root", "/nowhere"], "/nowhere"),
        (["install", "--root", "EMPTY"], "not the root of a system"),
        (["check", "--root", "EMPTY"], "not the root of a system"),
        (["install", "--root", "EMPTY", "--device", "ttyS1"], "expected a device"),
        (["install", "--root", "EMPTY", "--device", "/dev/../x"], "expected a device"),
        (["install", "--root", "EMPTY", "--free-console", "S0"], "expected a serial port"),
        (["print", "nonsense"], "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_one_line_and_exit_2(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    words = [str(tmp_path) if word == "EMPTY" else word for word in arguments]
    code, out, (line,) = in_process("guest", *words)
    assert (code, out) == (2, [])
    assert expected in line


def test_remove_with_other_options_is_refused(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    code, _, (line,) = install(root, "--remove", "--with-guestinfo")
    assert code == 2
    assert "--remove" in line


@pytest.mark.parametrize(
    ("what", "path"),
    [
        ("agent", AGENT),
        ("unit", UNIT),
        ("preset", PRESET),
        ("config", CONFIG),
        ("settings", SETTINGS),
        ("clean", CLEAN),
    ],
)
def test_print_gives_what_is_installed(tmp_path: Path, what: str, path: str) -> None:
    root = make_tree(tmp_path / "root", "debian")
    install(root)
    assert run("guest", "print", what).stdout == (root / path).read_text()


def test_print_config_with_options_gives_what_is_installed(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    install(root, "--with-guestinfo", "--network-every-boot")
    _, out, _ = in_process("guest", "print", "config", "--with-guestinfo", "--network-every-boot")
    assert out == (root / CONFIG).read_text().splitlines()


# hostile trees


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the tree, where nothing may be read or written."""
    directory = tmp_path / "outside"
    directory.mkdir()
    put(directory, "grub", 'GRUB_CMDLINE_LINUX="console=ttyS0"\n')
    put(directory, "python3", "#!ELF\n")
    return directory


def test_links_that_lead_out_write_nothing_outside(tmp_path: Path, outside: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    (root / "etc/default/grub").unlink()
    (root / "etc/default/grub").symlink_to(outside / "grub")
    (root / "usr/libexec").symlink_to(outside)
    (root / "etc/systemd").symlink_to("../../outside")
    (root / SETTINGS).symlink_to(outside / "settings")
    (root / "usr/lib/vmw-metadata-agent").symlink_to(f"/../../../../..{outside}")
    inside = root / str(outside).lstrip("/")
    inside.mkdir(parents=True)
    before = picture(outside)
    install(root, *ALL_OPTIONS)
    assert picture(outside) == before
    assert (inside / "vmw-metadata-agent").is_file()
    assert (root / "outside/system/cloud-init.target.wants").is_dir()
    install(root, "--remove")
    assert picture(outside) == before


def test_interpreter_outside_is_none(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "root/usr/bin").mkdir(parents=True)
    (tmp_path / "root/usr/bin/python3").symlink_to(outside / "python3")
    assert not Tree(tmp_path / "root").is_program("/usr/bin/python3")
    assert not Tree(tmp_path / "root").is_file("/../outside/python3")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/a/b/file", "/a/b/file"),
        ("/absolute/file", "/a/b/file"),
        ("/relative/file", "/a/b/file"),
        ("/a/up/up/up/absolute/file", "/a/b/file"),
        ("/../../a/./b//file", "/a/b/file"),
        ("/link-to-file", "/a/b/file"),
        ("/loop", None),
        ("/nothing", None),
        ("/a/b/file/x", None),
        ("/", "/"),
        ("/..", "/"),
    ],
)
def test_path_is_found_as_the_machine_itself_would(
    tmp_path: Path, path: str, found: str | None
) -> None:
    put(tmp_path, "a/b/file", "")
    links = {
        "absolute": "/a/b",
        "relative": "a/../a/b",
        "a/up": "../..",
        "up": "..",
        "link-to-file": "/relative/file",
        "loop": "loop",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    if path == "/loop":
        with pytest.raises(ConfigError, match="Too many levels of symbolic links"):
            Tree(tmp_path).find(path)
        return
    real = Tree(tmp_path).find(path)
    assert (real.rstrip("/.") or "/" if real else None) == found


def test_pipe_and_directory_and_huge_file_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 30)
    tree = Tree(tmp_path)
    assert tree.read("/pipe") is None
    assert tree.read("/directory") is None
    with pytest.raises(ConfigError, match="huge: File too large"):
        tree.read("/huge")
    with pytest.raises(ConfigError, match="directory: Is a directory"):
        tree.write("/directory", File(b"", 0o644))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "huge", "pipe"]


def test_files_of_a_tree_are_read_within_a_bound(tmp_path: Path) -> None:
    """One large file may have many names."""
    os.truncate(put(tmp_path, "large", ""), 8 << 20)
    tree = Tree(tmp_path)
    for _ in range(32):
        tree.read("/large")
    with pytest.raises(ConfigError, match="large: more than 256 MiB of files in all"):
        tree.read("/large")
    assert Tree(tmp_path).read("/large")


def test_record_of_a_hostile_image_reaches_nothing_outside(tmp_path: Path, outside: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    install(root)
    record = json.loads((root / RECORD).read_text())
    record["paths"] = {
        "/../outside/grub": {"before": {"content": "", "mode": 493}, "written": None}
    }
    record["directories"] = ["/../outside", "/etc"]
    put(root, RECORD, json.dumps(record))
    before = picture(outside)
    install(root, "--remove")
    assert picture(outside) == before
    assert (root / "etc").is_dir()


def test_command_line_of_a_pipe_does_not_hang(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    (root / "etc/default/grub").unlink()
    os.mkfifo(root / "etc/default/grub")
    assert install(root, "--free-console", "ttyS0")[0] == 0
    assert (root / "etc/default/grub").is_fifo()


@pytest.mark.slow
def test_usr_that_is_read_only_is_reported_and_nothing_is_changed(tmp_path: Path) -> None:
    """As on a running machine of bootc or rpm-ostree."""
    root = make_tree(tmp_path / "root", "rhel9")
    before = picture(root)
    usr = root / "usr"
    mount = f"mount --bind {usr} {usr} && mount -o remount,bind,ro {usr}"
    command = f"{sys.executable} -m vmw_cloudinit_metadata guest install --root {root}"
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{mount} && {command}"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=CHECKOUT,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith("installed.json: Read-only file system\n")
    assert picture(root) == before
