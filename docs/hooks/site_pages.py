"""What mkdocs does for mmfeat's site: pages that lie outside docs/, links between them, and generated tables."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from reference import with_tables

ROOT = Path(__file__).resolve().parents[2]
# Files of the repository that are pages of the site.
OUTSIDE = {
    "benchmarks/README.md": "benchmarks.md",
    "features/README.md": "store-format.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Make the generated tables, and lead links to the pages of the site."""
    here = page.file.src_uri
    source = {site: path for path, site in OUTSIDE.items()}.get(here, f"docs/{here}")
    return LINK.sub(lambda match: site_link(match, source, here), with_tables(markdown))


def site_link(match: re.Match[str], source: str, here: str) -> str:
    """A link of a file of the repository as a link of the site; plain text where the site has no such page."""
    image, label, target, fragment = match[1], match[2], match[3], match[4] or ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    inside = path.removeprefix("docs/") if path.startswith("docs/") else {"README.md": "index.md", **OUTSIDE}.get(path)
    if inside is None or inside.startswith("notebooks/"):
        return label
    return f"{image}[{label}]({posixpath.relpath(inside, posixpath.dirname(here) or '.')}{fragment})"
