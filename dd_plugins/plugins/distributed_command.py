"""Commands that several processes of torchrun run together."""

import click

__all__ = ["DistributedCommand"]


class DistributedCommand(click.Command):
    """A command whose work is shared among the processes of torchrun.

    Its callback joins the processes by :func:`~dd_plugins.api.process_group`. Every
    other command is refused if torchrun starts several processes, because each of them
    would do all the work. Use it as ``@click.command("name", cls=DistributedCommand)``.
    """
