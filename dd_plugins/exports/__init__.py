"""Exports: sets in forms that need no dd-plugins, with scripts that train on them."""
