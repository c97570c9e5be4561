"""Removes a serial console from kernel command lines in boot loaders' files. Pure."""

from __future__ import annotations

import re

# Files that hold a command line or its parts; `*` does not match `/`.
FILES = (
    # what command lines are made from
    "/etc/default/grub",
    "/etc/default/grub.d/*.cfg",
    "/etc/grub.d/*_custom",
    "/etc/tuned/bootcmdline",
    "/etc/kernel/cmdline",
    "/etc/kernel/cmdline.d/*.conf",
    "/usr/lib/kernel/cmdline",
    "/usr/lib/kernel/cmdline.d/*.conf",
    "/etc/cmdline",  # dracut's, as the next four
    "/etc/cmdline.d/*.conf",
    "/etc/dracut.conf",
    "/etc/dracut.conf.d/*.conf",
    "/usr/lib/dracut/dracut.conf.d/*.conf",
    "/usr/lib/bootc/kargs.d/*.toml",
    "/etc/default/extlinux",
    "/etc/default/u-boot",
    "/etc/update-extlinux.conf",
    # what boot loaders read
    "/boot/loader/entries/*.conf",
    "/boot/efi/loader/entries/*.conf",
    "/efi/loader/entries/*.conf",
    "/boot/grub/*.cfg",
    "/boot/grub/grub.conf",
    "/boot/grub/grubenv",
    "/boot/grub/menu.lst",
    "/boot/grub2/*.cfg",
    "/boot/grub2/grubenv",  # RHEL 8: the entries say $kernelopts, which is here
    "/boot/efi/EFI/*/*.cfg",
    "/boot/efi/EFI/*/grubenv",
    "/boot/EFI/*/*.cfg",
    "/boot/EFI/*/grubenv",
    "/efi/EFI/*/*.cfg",
    "/efi/EFI/*/grubenv",
    "/boot/extlinux.conf",
    "/boot/extlinux/*.conf",
    "/boot/extlinux/*.cfg",
    "/boot/syslinux/*.cfg",
    "/boot/*.cfg",  # Photon's photon_cmdline= and systemd_cmdline=
    "/boot/cmdline.txt",
    "/boot/firmware/cmdline.txt",
)
# Unified kernel images and their add-ons: a command line inside is signed or has a fixed place.
_PARTITIONS = ("/boot/efi", "/boot", "/efi")
_IMAGES = ("EFI/Linux/*.efi", "EFI/Linux/*.efi.extra.d/*.efi", "loader/addons/*.efi")
IMAGES = tuple(f"{partition}/{path}" for partition in _PARTITIONS for path in _IMAGES)
# The I/O addresses by which `console=uart8250,io,0x3f8` names a port.
_ADDRESSES = {"ttyS0": "3f8", "ttyS1": "2f8", "ttyS2": "3e8", "ttyS3": "2e8"}
# A list of words, as in TOML: `kargs = ["console=ttyS0", "quiet"]`; and the comma before its end.
_TOML_LIST = re.compile(rb"[ \t]*(?:kargs[ \t]*=[ \t]*\[|[\"'][^\"'\n]*[\"'][ \t]*[,\]\r\n])")
_EMPTY_END = re.compile(rb",[ \t]*(\])")
_ENVIRONMENT = b"# GRUB Environment Block\n"
_GRUB_SERIAL = re.compile(
    rb"^[ \t]*(?:GRUB_TERMINAL\w*=|terminal_(?:in|out)put\b)[^#\n]*\bserial\b", re.M
)


def without_console(text: bytes, port: str) -> bytes:
    """Return the text without `console=PORT`, as in `console=ttyS0,115200n8`; comments stay.

    The port may also be named by its address, as in `console=uart8250,io,0x3f8,115200n8`.
    """
    alone = re.compile(rb"(?<![^\s\"'=])" + _console(port) + rb"(?![^\s\"'\\])[ \t]*")
    item = re.compile(rb"([\"'])" + _console(port) + rb"\1[ \t]*,?[ \t]*")
    lines = text.splitlines(keepends=True)
    changed = b"".join(
        line if line.lstrip().startswith(b"#") else _tidy(line, alone, item) for line in lines
    )
    # GRUB writes such a file in place, so it keeps its length. Photon's are not padded.
    is_padded = text.startswith(_ENVIRONMENT) and text.endswith(b"#")
    return changed.rstrip(b"#").ljust(len(text), b"#") if is_padded else changed


def uses_console(text: bytes, port: str) -> bool:
    """Return whether a kernel with this text's command line has a console on the port."""
    return without_console(text, port) != text


def _console(port: str) -> bytes:
    names = [rf"(?:serial,)?{re.escape(port)}"]
    if port in _ADDRESSES:
        names.append(rf"(?:uart(?:8250)?,io|serial),0[xX]0*(?i:{_ADDRESSES[port]})")
    return rf"(?:console|earlyprintk|earlycon)=(?:{'|'.join(names)})(?![\w.])[\w,]*".encode()


def grub_serial_line(text: bytes) -> int | None:
    """Return the number of the line that makes GRUB itself use a serial port, or None."""
    found = _GRUB_SERIAL.search(text)
    return text.count(b"\n", 0, found.end()) + 1 if found else None


def _tidy(line: bytes, alone: re.Pattern[bytes], item: re.Pattern[bytes]) -> bytes:
    """Return the line without the words, nor a trailing blank if such a word was last."""
    if _TOML_LIST.match(line):
        changed = item.sub(b"", line)
        return line if changed == line else _EMPTY_END.sub(rb"\1", changed)
    changed = alone.sub(b"", line)
    return line if changed == line else _without_blank_end(changed)


def _without_blank_end(line: bytes) -> bytes:
    """Return the line without blanks at its end or before its closing quote."""
    text = line.rstrip()
    end = line[len(text) :].translate(None, b" \t")
    quote = text[-1:] if text.endswith((b'"', b"'")) else b""
    return text.removesuffix(quote).rstrip(b" \t") + quote + end
