"""Pure tensor maths: no state, no loop, no logging.

Most functions take tensors and return tensors on the same device.
"""
