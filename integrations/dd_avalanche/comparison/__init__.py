"""A comparison of distilled and real images as the memory of a stream."""
