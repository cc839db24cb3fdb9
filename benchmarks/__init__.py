"""Speed claims, each one a command that prints ratios measured in one run."""
