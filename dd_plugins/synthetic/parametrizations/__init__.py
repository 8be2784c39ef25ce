"""Parametrizations: forms of images, stored and learned in place of pixels."""
