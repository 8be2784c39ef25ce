"""The plugin that registers the built-in commands."""

from dd_plugins.hookspecs import RegisterCommand, hookimpl
from dd_plugins.plugins.lazy_command import LazyCommand

_DISTIL = {
    "distill": "distill:distill_command",
    "evaluate": "evaluate:evaluate_command",
    "show": "sets:show_command",
    "info": "sets:info_command",
    "export": "sets:export_command",
    "push-to-hub": "push_to_hub:push_to_hub_command",
    "estimate": "estimate:estimate_command",
}
_COMPARE = {
    "transfer": "transfer:transfer_command",
    "import": "import_set:import_command",
    "relabel": "relabel:relabel_command",
}
_PREPARE = {
    "train-networks": "train_networks:train_networks_command",
    "train-experts": "train_experts:train_experts_command",
    "train-generator": "train_generator:train_generator_command",
}
_HELP = {
    "options": "options:options_command",
    "plugins": "plugins:plugins_command",
}
_SECTIONS = {
    "Distil": _DISTIL,
    "Compare": _COMPARE,
    "Prepare": _PREPARE,
    "Look up": _HELP,
}
_SENTENCES = {
    "distill": "Learn a small synthetic set from a data set.",
    "evaluate": "Train fresh networks on a set; test them on real data.",
    "show": "Draw a set as a picture.",
    "info": "Show how a set was made.",
    "export": "Write a set for use without dd-plugins.",
    "push-to-hub": "Publish a set on the Hugging Face hub.",
    "estimate": "Say what a distillation will cost.",
    "transfer": "Test sets on other architectures.",
    "import": "Read a set that other code has made.",
    "relabel": "Replace labels by those of a teacher.",
    "train-networks": "Train teachers, and networks for wrappers.",
    "train-experts": "Train experts for mtt.",
    "train-generator": "Train a generator for --parametrization generator.",
    "options": "List the options of a method or network.",
    "plugins": "List installed plugins.",
}


@hookimpl
def dd_register_commands(register: RegisterCommand) -> None:
    """Offer the built-in commands."""
    for section, commands in _SECTIONS.items():
        for name, target in commands.items():
            register(
                LazyCommand(
                    name, f"dd_plugins.cli.{target}", _SENTENCES[name], section=section
                )
            )
