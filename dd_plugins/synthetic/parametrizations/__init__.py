"""Parametrizations: what is stored and learned in place of pixels."""
