"""A trained network as files that others can run and check."""
