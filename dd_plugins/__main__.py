"""``python -m dd_plugins`` is ``dd-plugins``."""

from dd_plugins.cli.entry import main

main()
