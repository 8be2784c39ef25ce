"""Pure tensor maths: no state, no loop, no logging.

Every function takes tensors and returns tensors of the same device.
"""
