"""Distilled replay for the strategies of Avalanche."""
