"""Wrappers: distillers that hold a distiller."""
