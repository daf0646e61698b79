"""The embedded Stable Diffusion: a few million weights that draw the `shapes` images."""
