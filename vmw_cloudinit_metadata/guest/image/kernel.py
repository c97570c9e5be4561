"""Removes a serial console from kernel command lines in boot loaders' files. Pure."""

from __future__ import annotations

import re

# Files that hold a command line or its parts; `*` does not match `/`.
FILES = (
    "/etc/default/grub",
    "/etc/default/grub.d/*.cfg",
    "/etc/kernel/cmdline",
    "/usr/lib/kernel/cmdline",
    "/boot/loader/entries/*.conf",
    "/boot/efi/loader/entries/*.conf",
    "/efi/loader/entries/*.conf",
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/grub2/grubenv",  # RHEL 8: the entries say $kernelopts, which is here
    "/boot/efi/EFI/*/grub.cfg",
    "/boot/efi/EFI/*/grubenv",
    "/boot/extlinux/extlinux.conf",
)
_ENVIRONMENT = b"# GRUB Environment Block\n"
_ENVIRONMENT_BYTES = 1024  # GRUB writes it in place and accepts no other length
_GRUB_SERIAL = re.compile(
    rb"^[ \t]*(?:GRUB_TERMINAL\w*=|terminal_(?:in|out)put\b)[^#\n]*\bserial\b", re.M
)


def without_console(text: bytes, port: str) -> bytes:
    """Return the text without `console=PORT`, as in `console=ttyS0,115200n8`; comments stay."""
    token = (
        rb"(?:console|earlyprintk)=(?:serial,)?" + re.escape(port.encode()) + rb"(?![\w.])[\w,]*"
    )
    alone = re.compile(rb"(?<![^\s\"'=])" + token + rb"(?![^\s\"'\\])[ \t]*")
    lines = text.splitlines(keepends=True)
    changed = b"".join(
        line if line.lstrip().startswith(b"#") else _tidy(line, alone) for line in lines
    )
    return _padded(changed) if text.startswith(_ENVIRONMENT) else changed


def grub_serial_line(text: bytes) -> int | None:
    """Return the number of the line that makes GRUB itself use a serial port, or None."""
    found = _GRUB_SERIAL.search(text)
    return text.count(b"\n", 0, found.end()) + 1 if found else None


def _tidy(line: bytes, token: re.Pattern[bytes]) -> bytes:
    """Return the line without the token, nor a trailing blank if the token was last."""
    changed = token.sub(b"", line)
    return line if changed == line else _without_blank_end(changed)


def _without_blank_end(line: bytes) -> bytes:
    """Return the line without blanks at its end or before its closing quote."""
    text = line.rstrip()
    end = line[len(text) :].translate(None, b" \t")
    quote = text[-1:] if text.endswith((b'"', b"'")) else b""
    return text.removesuffix(quote).rstrip(b" \t") + quote + end


def _padded(environment: bytes) -> bytes:
    return environment.rstrip(b"#").ljust(_ENVIRONMENT_BYTES, b"#")
