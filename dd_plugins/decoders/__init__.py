"""Decoders: generators of images; a set may be learned in their latents."""
