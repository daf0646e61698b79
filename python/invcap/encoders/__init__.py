"""Frozen encoders of images and sentences, and the small image autoencoder."""
