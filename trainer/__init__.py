"""What runs on every rank: balanced data-parallel training. Importing this package does not import torch."""
