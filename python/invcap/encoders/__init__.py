"""Frozen encoders of pictures and sentences, and the small picture autoencoder."""
