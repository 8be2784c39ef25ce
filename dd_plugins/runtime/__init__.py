"""General tools: files, processes, signals, randomness, CUDA graphs."""
