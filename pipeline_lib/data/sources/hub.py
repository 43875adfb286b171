"""Problems from one file of a dataset repository on the Hugging Face hub.

One file at a pinned revision, through `huggingface_hub` and its cache (so `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and
`HF_HUB_OFFLINE` work as everywhere): no dataset scripts, nothing is executed.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from pipeline_lib.data.published import (
    PublishedOptions,
    read_published,
    read_published_preferences,
    read_published_safety,
)
from pipeline_lib.data.schema import PreferencePair, SafetyExample
from pipeline_lib.errors import StorageAway, StorageError
from pipeline_lib.storage.hub import hub_is_away
from pipeline_lib.types import Problem


class Options(PublishedOptions):
    """Options of the `hub` source."""

    dataset: str = Field(description="Repository, for example openai/gsm8k.")
    file: str = Field(description="File in it, for example main/train-00000-of-00001.parquet.")
    revision: str = Field(description="Commit, tag or branch. A commit makes a run repeatable.")


def _fetched(options: Options) -> Path:
    """The file in the hub's local cache.

    Raises:
        StorageAway: The hub does not answer, or cannot now, and the file is not in the cache.
        StorageError: The hub refuses, has no such file, or may not be asked; the message names repository, file and remedy.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"hub dataset {options.dataset}, {options.file} at {options.revision}"
    try:
        return Path(
            hf_hub_download(options.dataset, options.file, repo_type="dataset", revision=options.revision)
        )
    except LocalEntryNotFoundError as error:
        kind = StorageAway if hub_is_away(error) else StorageError
        raise kind(
            f"{where}: the hub cannot be reached and the file is not in its cache. Go online once."
        ) from error
    except GatedRepoError as error:
        raise StorageError(f"{where}: access is gated. Accept its terms and set HF_TOKEN.") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError, HFValidationError) as error:
        raise StorageError(f"{where}: {type(error).__name__}. Correct dataset, file or revision.") from error
    except (HfHubHTTPError, OSError) as error:
        kind = StorageAway if hub_is_away(error) else StorageError
        raise kind(f"{where}: the hub refused ({type(error).__name__}). Try again or use a file.") from error


def problems(options: Options, seed: int) -> list[Problem]:
    """Every judgeable row of the file, in order."""
    return read_published(_fetched(options), options)


def preferences(options: Options, seed: int) -> list[PreferencePair]:
    """Every preference pair of the file, in order."""
    return read_published_preferences(_fetched(options), options)


def safety(options: Options, seed: int) -> list[SafetyExample]:
    """Every safety example of the file, in order."""
    return read_published_safety(_fetched(options), options)
