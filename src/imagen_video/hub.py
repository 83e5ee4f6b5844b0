"""Files of the Hugging Face hub, or of what HF_ENDPOINT names: fetched into HF_HOME, pushed."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imagen_video import __version__
from imagen_video.files import Unreachable

LIBRARY = "imagen-video"


def is_name(name: str) -> bool:
    """Whether this reads like org/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def fetched(name: str, files: Sequence[str], *, revision: str | None = None) -> Path:
    """The snapshot of a model with the files of these patterns in it, from the cache if the hub
    cannot be had; ValueError if there is no such thing, Unreachable if it is neither there."""
    from huggingface_hub import snapshot_download

    with _plainly(f"{name!r}, which is no folder here,"):
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(files),
            library_name=LIBRARY,
            library_version=__version__,
        )
    return Path(folder)


def push(folder: Path, name: str, *, private: bool | None, token: str | None) -> str:
    """Upload a folder as a model, new or not, as one commit; returns the address of its page."""
    from huggingface_hub import HfApi

    if not is_name(name):
        raise ValueError(f"a model of the hub is named like org/name, got {name!r}")
    api = HfApi(token=token, library_name=LIBRARY, library_version=__version__)
    with _plainly(repr(name)):
        api.create_repo(name, private=private, exist_ok=True)
        message = f"Cascade of {LIBRARY} {__version__}"
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    return f"{api.endpoint}/{name}"


@contextmanager
def _plainly(what: str) -> Iterator[None]:
    """The hub's errors in one line each: ValueError for what the caller can put right."""
    import httpx
    from huggingface_hub import constants, errors

    hub, log_in = constants.ENDPOINT, "log in with `hf auth login` or HF_TOKEN"
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{what} has no such revision on {hub}") from error
    except errors.RepositoryNotFoundError as error:  # gated ones too
        raise ValueError(
            f"{what} is no model of {hub}, or not open to you: check the name, or {log_in}"
        ) from error
    except (OSError, httpx.HTTPError, RuntimeError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 500)
        told = " ".join(str(error.__cause__ or error).split())
        if status in (401, 403):
            raise ValueError(f"{what} is not open to you on {hub}: {log_in}") from error
        if status < 500:
            raise ValueError(f"{what} is refused by {hub}: {told}") from error
        if constants.HF_HUB_OFFLINE:
            raise ValueError(
                f"{what} is not whole in {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set: fetch "
                "it once without that"
            ) from error
        raise Unreachable(f"{what} cannot be had from {hub}: {told}") from error
