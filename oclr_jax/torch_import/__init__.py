"""Import of released PyTorch files, without PyTorch and without running any pickle."""
