"""Certificates: each turns a network into one radius an image, and says what kind of claim that radius is."""
