"""Backbones, pretrained weights, the embedding model."""
