"""Sets on the Hugging Face hub."""

import os
import re
import tempfile
from pathlib import Path

from dd_plugins.errors import MissingExtraError, OptionError, RunError, one_line
from dd_plugins.exports.hub_folder import HUB_FILES, write_hub_folder
from dd_plugins.exports.recipe import recipe_of
from dd_plugins.plugins.lookup import get_network
from dd_plugins.synthetic.artifact import DistilledSet, as_set

__all__ = ["push_to_hub"]

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def push_to_hub(
    distilled: "DistilledSet | str | os.PathLike[str]",
    repo_id: str,
    *,
    private: bool = False,
) -> str:
    """Upload a set to a data set repository of the Hugging Face hub.

    A folder written by ``export(distilled, "hub", folder)`` is uploaded as it is, with
    any changes to its ``README.md``; other files in it stay here. For any other set
    such a folder is written first, and removed afterwards. The user must be logged in:
    ``hf auth login``.

    Args:
        distilled: the set; or the path of an artifact, of a run or of such a folder.
        repo_id: the repository, ``USER/NAME``; it is created if it does not exist.
        private: whether a newly created repository is hidden from others.

    Returns:
        The address of the repository.

    Raises:
        MissingExtraError: ``huggingface_hub`` is not installed.
        OptionError: no repository can have this name.
        FileError: the artifact cannot be read.
        RunError: the hub refuses, or cannot be reached.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise MissingExtraError(
            "the hub needs the package huggingface_hub: pip install 'dd-plugins[hub]'"
        ) from error
    if not _REPOSITORY.fullmatch(repo_id):
        raise OptionError(f"repo_id must be USER/NAME, got {repo_id!r}")
    checked = as_set(distilled)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if not isinstance(distilled, DistilledSet) and _is_exported(Path(distilled)):
            folder = Path(distilled)
        else:
            how = recipe_of(checked, get_network)
            write_hub_folder(checked, how, folder, repo_id)
        api = HfApi()
        try:
            address = api.create_repo(
                repo_id, repo_type="dataset", private=private, exist_ok=True
            )
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                repo_type="dataset",
                allow_patterns=list(HUB_FILES),
                commit_message="Upload a set distilled by dd-plugins",
            )
        except HFValidationError as error:
            raise OptionError(f"repo_id {repo_id!r}: {one_line(error)}") from error
        except Exception as error:  # a server and a network fail in many ways
            raise RunError(
                f"cannot upload to {repo_id}: {one_line(error)}; log in by 'hf auth "
                "login' if you have not"
            ) from error
    return str(address)


def _is_exported(path: Path) -> bool:
    """Tell whether a path is a folder with all files of an export for the hub."""
    return all((path / name).is_file() for name in HUB_FILES)
