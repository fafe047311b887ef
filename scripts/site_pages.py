"""For mkdocs: a page for each folder of measured data, so that the links of the results lead to its files."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    folders: dict[PurePosixPath, list[str]] = defaultdict(list)
    for file in files:
        path = PurePosixPath(file.src_uri)
        if path.match("results/*/*"):
            folders[path.parent].append(path.name)
    for folder, names in folders.items():
        listed = "\n".join(f"- [{name}]({name})" for name in sorted(names))
        files.append(File.generated(config, f"{folder}/index.md", content=f"# Files of {folder.name}\n\n{listed}\n"))
    return files
