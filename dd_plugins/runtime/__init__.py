"""What any program needs: files, processes, signals, randomness, CUDA graphs."""
