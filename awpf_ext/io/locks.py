"""Lock files, which the kernel frees when their holder ends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from awpf_ext.errors import DataError, UserError, reason
from awpf_ext.io.atomic import PathLike


@contextmanager
def lock(
    path: PathLike, *, wait: bool = True, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock file `path`; the kernel frees it when its holder ends, even when it is killed.

    If another process holds it, `wait=False` raises UserError with that process's name; otherwise
    `on_wait` is called once with the name, and the call blocks. The file itself is never deleted:
    two processes could then lock two files of the same name.
    """
    import fcntl

    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise DataError(f"cannot lock {path}: {reason(error)}") from error
    try:
        notified = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
                if not wait:
                    raise UserError(f"{path.parent} is in use by {holder}") from None
                if on_wait is not None and not notified:
                    on_wait(holder)
                notified = True
                time.sleep(0.1)
            except OSError as error:
                raise DataError(f"cannot lock {path}: {reason(error)}") from error
        with suppress(OSError):  # the disk may be full; the lock holds without the name
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)  # frees the lock
