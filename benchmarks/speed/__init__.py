"""Speed beside PyTorch: contestants take turns in one run, with the same weights."""
