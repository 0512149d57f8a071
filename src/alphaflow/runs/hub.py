"""The Hugging Face hub: pushing a folder to it, and loading a model from it.

huggingface_hub is an extra, imported when it is needed. Whose account it is, it knows itself (`hf auth login`, or
the variable HF_TOKEN); HF_ENDPOINT names another hub, and HF_HUB_OFFLINE=1 keeps to what was loaded before.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ..errors import UserError, missing, one_line

_ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>.+))?")  # pathlib makes one slash of two


def is_address(path: str | Path) -> bool:
    """Whether `path` names something on the hub: `hf://OWNER/NAME`."""
    return str(path).startswith("hf:/")


def fetch(address: str | Path, files: Sequence[str]) -> Path:
    """Return a folder with `files` of a repository, loaded once and kept in the hub's own cache.

    Args:
        address: `hf://OWNER/NAME`, or `hf://OWNER/NAME@REVISION` for a branch, tag or commit.

    Raises:
        UserError: huggingface_hub is missing; the address is malformed; the repository cannot be reached.
    """
    match = _ADDRESS.fullmatch(str(address))
    if match is None:
        raise UserError(
            f"{address} names no model on the hub: the form is hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
        )
    library = _library()
    try:
        found = library.snapshot_download(match["repo"], revision=match["revision"], allow_patterns=list(files))
    except Exception as error:  # the library raises many kinds, and httpx's
        raise UserError(
            f"cannot load hf://{match['repo']} ({_short(error)}): check the name, the network, and for a private "
            "one `hf auth login`"
        ) from None
    return Path(found)


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Make the repository if need be, and commit all files of `folder` to it.

    Args:
        repo: OWNER/NAME. private: where the repository is made now, nobody else sees it.

    Returns:
        Its address.

    Raises:
        UserError: huggingface_hub is missing, nobody is logged in, or the hub refuses.
    """
    check_name(repo)
    library = _library()
    try:
        api = library.HfApi(library_name="alphaflow")
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Upload with alphaflow", ignore_patterns=".*"
        )
    except Exception as error:  # the library raises many kinds, and httpx's
        raise UserError(
            f"cannot push to {repo} ({_short(error)}): the export lies in {folder}; log in with `hf auth login`, "
            "as somebody who may write there"
        ) from None
    return str(url)


def check_name(repo: str) -> None:
    """Refuse what is not of the form OWNER/NAME."""
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", repo):
        raise UserError(f"--push {repo}: give OWNER/NAME, where OWNER is your account or organisation", status=2)


def _short(error: Exception) -> str:
    return one_line(error, 200)


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing("the hub needs huggingface_hub", "hub", error) from None
    return huggingface_hub
