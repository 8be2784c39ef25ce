"""A plugin of dd-plugins to start from."""
