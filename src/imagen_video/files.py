"""Files that are either whole or not there, and where they are kept."""

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

T = TypeVar("T")

# Seconds between attempts to have what should be there.
PAUSES = (1, 10, 60)
# Of errors: the machine is short of threads or of open files, whatever is read.
SHORT = (errno.EAGAIN, errno.EMFILE, errno.ENFILE)


class Unreachable(RuntimeError):
    """What is there but cannot be had now: no fault of the data."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`: renamed to it on a clean exit, removed on an exception.

    The file gets the permissions of any new file, whatever its writer gave it: safetensors lets
    nobody else read what it writes. Nor is its error on a full disk an OSError, which this raises.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    start = os.fsdecode(os.fsencode(path.name)[:80])
    temporary = path.with_name(f".{start}.{secrets.token_hex(4)}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


LOCK = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; ValueError where another one does.

    The lock is the process's own: it ends with it, whatever children it leaves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"another process works in {folder}: stop it first") from error
        except OSError:
            pass  # a file system without locks
        yield


def patiently(get: Callable[[], T], what: str, passing: Callable[[Exception], bool]) -> T:
    """What `get` gives, tried again after PAUSES while its error is a `passing` one; Unreachable,
    which says `what` cannot be done, if that stays."""
    pauses = iter(PAUSES)
    while True:
        try:
            return get()
        except Exception as error:
            if not passing(error):
                raise
            wait = next(pauses, None)
            if wait is None:
                raise Unreachable(
                    f"cannot {what}, tried {len(PAUSES) + 1} times: {error}; when it can be "
                    "had the same command goes on"
                ) from error
        time.sleep(wait)


def opening(get: Callable[[], T], name: str) -> T:
    """What opening a file gives, tried again while the machine is SHORT: no fault of the file."""
    return patiently(get, f"open {name!r}", lambda error: getattr(error, "errno", 0) in SHORT)


def cache_root() -> Path:
    """$IMAGEN_VIDEO_CACHE, or ~/.cache/imagen-video."""
    return Path(os.environ.get("IMAGEN_VIDEO_CACHE") or "~/.cache/imagen-video").expanduser()


def fetched(url: str) -> Path:
    """A local file of what `url` names, downloaded into the cache once, by whoever asks first; a
    path is itself.

    Any URL that fsspec knows. What is fetched stays in the cache until it is deleted by hand.
    ValueError if there is no such thing, Unreachable if it still cannot be had after a while.
    """
    if "://" not in url:
        return Path(url)
    name = url.partition("?")[0].rpartition("/")[2][-80:]  # signatures may be long
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    local = cache_root() / "fetched" / name
    if not local.is_file():
        local.parent.mkdir(parents=True, exist_ok=True)
        with open(local.with_name(f".{local.name}.lock"), "w") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.lockf(lock, fcntl.LOCK_EX)
            if not local.is_file():
                _fetch(url, local)
    return local


def _fetch(url: str, local: Path) -> None:
    import fsspec

    def get() -> None:
        files, path = fsspec.core.url_to_fs(url)
        with replacing(local) as temporary:
            files.get_file(path, str(temporary))

    try:
        patiently(get, f"fetch {url!r}", _may_pass)
    except Unreachable:
        raise
    except Exception as error:
        raise ValueError(f"cannot fetch {url!r}: {error}") from error


def _may_pass(error: Exception) -> bool:
    """Whether a store may answer otherwise later; every store has its own errors."""
    if isinstance(error, FileNotFoundError | PermissionError | ValueError | ImportError):
        return False
    status = getattr(error, "status", 500)
    return not 400 <= status < 500 or status in (408, 429)  # that of a bucket: 403


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; ValueError where it is no UTF-8."""
    try:
        return path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 ({error}): save it as that") from error
