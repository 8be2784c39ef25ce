"""The plugin that registers the built-in commands."""

from dd_plugins.cli.distill import distill_command
from dd_plugins.cli.estimate import estimate_command
from dd_plugins.cli.evaluate import evaluate_command
from dd_plugins.cli.import_set import import_command
from dd_plugins.cli.options import options_command
from dd_plugins.cli.plugins import plugins_command
from dd_plugins.cli.push_to_hub import push_to_hub_command
from dd_plugins.cli.relabel import relabel_command
from dd_plugins.cli.sets import export_command, info_command, show_command
from dd_plugins.cli.train_experts import train_experts_command
from dd_plugins.cli.train_generator import train_generator_command
from dd_plugins.cli.train_networks import train_networks_command
from dd_plugins.cli.transfer import transfer_command
from dd_plugins.hookspecs import RegisterCommand, hookimpl


@hookimpl
def dd_register_commands(register: RegisterCommand) -> None:
    """Offer the built-in commands."""
    for command in (
        distill_command,
        estimate_command,
        evaluate_command,
        import_command,
        relabel_command,
        transfer_command,
        train_networks_command,
        train_experts_command,
        train_generator_command,
        show_command,
        info_command,
        export_command,
        push_to_hub_command,
        options_command,
        plugins_command,
    ):
        register(command)
