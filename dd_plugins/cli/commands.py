"""The plugin that registers the built-in commands."""

from dd_plugins.hookspecs import RegisterCommand, hookimpl
from dd_plugins.plugins.lazy_command import LazyCommand

_GENERATOR = "Train a generator for --parametrization generator."
_COMMANDS = {
    "Distil": (
        ("distill", "distill", "Learn a small synthetic set from a data set."),
        ("evaluate", "evaluate", "Train networks on a set; test them on real data."),
        ("show", "sets", "Draw a set as a picture."),
        ("info", "sets", "Show how a set was made."),
        ("export", "sets", "Write a set for use without dd-plugins."),
        ("push-to-hub", "push_to_hub", "Publish a set on the Hugging Face hub."),
        ("estimate", "estimate", "Say what a distillation will cost."),
    ),
    "Compare": (
        ("transfer", "transfer", "Test sets on other architectures."),
        ("import", "import_set", "Read a set that other code has made."),
        ("relabel", "relabel", "Replace labels by those of a teacher."),
    ),
    "Prepare": (
        ("train-networks", "train_networks", "Train teachers, and wrappers' networks."),
        ("train-experts", "train_experts", "Train experts for mtt."),
        ("train-generator", "train_generator", _GENERATOR),
    ),
    "Look up": (
        ("options", "options", "List the options of a method or network."),
        ("plugins", "plugins", "List installed plugins."),
    ),
}
"""By section: name, module and sentence. A function has the name of its command."""


@hookimpl
def dd_register_commands(register: RegisterCommand) -> None:
    """Offer the built-in commands."""
    for section, commands in _COMMANDS.items():
        for name, module, sentence in commands:
            function = f"{name.replace('-', '_')}_command"
            target = f"dd_plugins.cli.{module}:{function}"
            register(LazyCommand(name, target, sentence, section=section))
