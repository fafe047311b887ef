"""What pyproject.toml can't say: C kernels, left out without a compiler, and the README as an index shows it."""

import re
import tomllib
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

CSRC = "lipcert/kernels/csrc"
PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]


def absolute(page: str) -> str:
    """The page with links to the files of this version in the repository, as there are none beside it in an index."""
    home, version = PROJECT["urls"]["Homepage"], PROJECT["version"]
    page = page.replace("](#", "](README.md#")
    page = re.sub(r"(!\[[^]]*\]\(|src=\")(?!https?:)", rf"\1{home}/raw/v{version}/", page)
    return re.sub(r"\]\((?!https?:)", rf"]({home}/blob/v{version}/", page)


setup(
    long_description=absolute(Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    ext_modules=[
        Extension(
            "lipcert.kernels._cpu",
            sources=sorted(glob(f"{CSRC}/*.c")),
            depends=sorted(glob(f"{CSRC}/*.h")),
            extra_compile_args=["-O3", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi", "-g0"],
            optional=True,
        )
    ],
)
