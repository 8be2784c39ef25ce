"""Decoders: generators of images, in whose latents a set may be learned."""
