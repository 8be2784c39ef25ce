"""The command for publishing a set on the Hugging Face hub."""

from pathlib import Path

import click

from dd_plugins import options as shared
from dd_plugins.cli.printing import say

__all__ = ["push_to_hub_command"]


@click.command("push-to-hub")
@click.argument("path", type=shared.path_type)
@click.argument("repo_id")
@click.option("--private", is_flag=True, help="Hide a new repository from others.")
def push_to_hub_command(path: Path, repo_id: str, private: bool) -> None:
    """Publish a set on the Hugging Face hub, as the data set REPO_ID (USER/NAME).

    To edit its card first, for example to add a licence, write the folder with export
    --to hub, and give it as PATH: it is uploaded unchanged.
    """
    from dd_plugins.exports.hub import push_to_hub

    say(f"uploaded to {push_to_hub(path, repo_id, private=private)}")
