"""Architectures, one file each, built as Model(input_shape=(C, H, W), num_classes=K, **config)."""
