"""Decode images and pack them into one array."""
