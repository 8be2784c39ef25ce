"""Distillation methods: one published method per file."""
