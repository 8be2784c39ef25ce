"""The options of a comparison that takes seconds."""

FREPO = "frepo(pool_size=1, real_batch_size=32)"


SHORT = [
    *("--benchmark", "split-digits", "--memory", "20", "--steps", "3"),
    *("--training-steps", "4", "--network", "conv(width=4, depth=2)"),
]
