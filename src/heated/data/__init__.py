"""Packed images, batches, augmentation and samplers."""
