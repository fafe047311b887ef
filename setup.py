"""The C kernels of lipcert.kernels; all else stands in pyproject.toml. Without a compiler they are left out."""

from glob import glob

from setuptools import Extension, setup

CSRC = "lipcert/kernels/csrc"

setup(
    ext_modules=[
        Extension(
            "lipcert.kernels._cpu",
            sources=sorted(glob(f"{CSRC}/*.c")),
            depends=sorted(glob(f"{CSRC}/*.h")),
            extra_compile_args=["-O3", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi", "-g0"],
            optional=True,
        )
    ]
)
