"""What mkdocs runs: notebooks become pages."""

from __future__ import annotations

from pathlib import PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook, with its outputs."""
    exporter = MarkdownExporter()
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        path = PurePosixPath(notebook.src_uri)
        resources = {"unique_key": path.stem, "output_files_dir": path.stem}
        page, written = exporter.from_filename(notebook.abs_src_path, resources=resources)
        files.append(File.generated(config, str(path.with_suffix(".md")), content=page))
        for name, content in written["outputs"].items():
            files.append(File.generated(config, str(path.parent / name), content=content))
    return files
