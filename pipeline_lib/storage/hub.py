"""The Hugging Face hub: which of its errors pass by themselves."""

from __future__ import annotations


def hub_is_away(error: BaseException) -> bool:
    """True for a failed connection and for the answers 429 and 5xx; never where `HF_HUB_OFFLINE` forbids to ask.

    `huggingface_hub` looks into its cache when the hub does not answer as it should, and says LocalEntryNotFoundError when
    nothing is there: why the hub did not answer is then the error's cause.
    """
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError

    if is_offline_mode():
        return False
    reason = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(reason, HfHubHTTPError):
        return reason.response.status_code == 429 or reason.response.status_code >= 500
    return reason is not error and not isinstance(reason, FileMetadataError)
