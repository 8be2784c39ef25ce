"""Parametrizations: other forms of images, learned in place of pixels."""
