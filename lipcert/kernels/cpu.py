"""The C kernels, through ctypes."""


def library():
    return None
