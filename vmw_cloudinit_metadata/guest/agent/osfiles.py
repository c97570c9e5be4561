"""Files and directories: bounded reads, synced writes, and an atomic exchange of two names."""

import errno
import os
import shutil
import stat
from typing import List

MAX_FILE_BYTES = 8 * 1024 * 1024  # for reading; no document is longer than its line


def opened_at_once(path: str, more_flags: int) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | more_flags)


def read_file(path: str, more_flags: int = 0) -> bytes:
    """Return the content of a regular file; raise OSError. Never block on a pipe."""
    with open(path, "rb", opener=lambda name, _: opened_at_once(name, more_flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return content


def read_end(path: str, max_bytes: int) -> str:
    """Return the text at the end of a file that may be longer, or "" if it cannot be read."""
    try:
        with open(path, "rb", opener=opened_at_once) as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.seek(max(os.fstat(file.fileno()).st_size - max_bytes, 0))
                return file.read(max_bytes).decode("utf-8", "replace")
    except OSError:
        pass
    return ""


def read_text(path: str) -> str:
    """Return the text of a small file, or "" if it cannot be read."""
    try:
        return read_file(path).decode("utf-8", "replace")
    except OSError:
        return ""


def names_in(directory: str) -> List[str]:
    """Return the sorted names in a directory; none if it cannot be read."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def remove(path: str) -> None:
    """Remove a file, a symlink or a tree, if there is one."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: str, content: bytes) -> None:
    """Create a private file and sync it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(place: str) -> None:
    if not os.path.isdir(place):
        make_directories(os.path.dirname(place))
        os.mkdir(place, 0o755)
        os.chmod(place, 0o755)  # nosec B103 # above the seed, which has 0o700


def exchange(one: str, other: str) -> bool:
    """Swap two names atomically; return False where the system or file system cannot."""
    try:
        import ctypes

        swap = ctypes.CDLL(None).renameat2
    except (ImportError, OSError, AttributeError):
        return False
    at_cwd, exchange_flag = -100, 2
    return bool(swap(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange_flag) == 0)
