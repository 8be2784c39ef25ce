"""Run ``dd-plugins`` as ``python -m dd_plugins``."""

from dd_plugins.cli.entry import main

main()
