"""`explained` turns a failure of the download client into a DownloadError: one line with the reason and a remedy."""

from __future__ import annotations

import errno

from pocketvlm.errors import DownloadError

COMMAND = "pocketvlm pull"


class NotFoundError(DownloadError):
    """The hub has no such repository, or cannot be asked: the name may be meant as a path."""


class AdapterFoundError(DownloadError):
    """A repository that was taken for a model holds an adapter."""


def explained(error: Exception, repo_id: str, revision: str | None) -> DownloadError | None:
    """The error for a failure of the download client, with its reason and a remedy; None if the failure is a bug."""
    from huggingface_hub import constants, errors

    endpoint, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    name = repo_id if revision is None else f"{repo_id}@{revision}"
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(
            f"{repo_id} is gated: accept its terms at {endpoint}/{repo_id}, then set HF_TOKEN to your token or run "
            f"`hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFoundError(
            f"{repo_id} is not on {endpoint}, or is private: check the spelling, or set HF_TOKEN to a token that may "
            f"read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadError(
            f"{repo_id} has no revision {revision!r}: see {endpoint}/{repo_id}/refs for branches and tags"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if constants.HF_HUB_OFFLINE:
            return NotFoundError(
                f"{name} is not complete in the cache {cache} and HF_HUB_OFFLINE is set: run `{COMMAND} {name}` with a "
                f"network, or give the path of a directory"
            )
        return _unreachable(name, endpoint, cache)
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code if error.response is not None else "no answer"
        hint = "check HF_TOKEN" if status in {401, 403} else "wait and try again, or set HF_ENDPOINT to a mirror"
        return DownloadError(f"{endpoint} refused {name} (HTTP {status}): {hint}")
    if isinstance(error, errors.HFValidationError):
        return NotFoundError(f"{name!r} is not a valid hub id: give org/name or org/name@revision")
    # The HTTP client differs between versions of huggingface_hub, and none of its classes is ours to import.
    if type(error).__module__.split(".")[0] in {"httpx", "httpx2", "httpcore", "requests", "urllib3"}:
        return _unreachable(name, endpoint, cache)
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return DownloadError(f"{name}: the disk is full at {cache}: make room, or set HF_HOME to another disk")
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            return DownloadError(f"{name}: cannot write to {cache}: allow it, or set HF_HOME to a directory of yours")
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return DownloadError(f"{name}: the download failed ({reason}): run it again, it goes on where it stopped")
    return None


def _unreachable(name: str, endpoint: str, cache: str) -> DownloadError:
    return NotFoundError(
        f"{endpoint} cannot be reached and {name} is not complete in the cache {cache}: check the network, set "
        f"HF_ENDPOINT to a mirror, or give the path of a directory"
    )
