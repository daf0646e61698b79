"""Frozen text-to-image models, without the algorithms that use them."""
