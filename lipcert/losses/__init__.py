"""Losses, one file each, called as loss(model, x, y) -> named terms."""
