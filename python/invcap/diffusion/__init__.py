"""Frozen text-to-image models: what they are, nothing that is done with them."""
