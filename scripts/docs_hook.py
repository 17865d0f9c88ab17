"""Lets pages of the documentation link to files of the project that are not below docs/, on the site as on GitHub.

The files that pages link to become part of the site, below project/, and the links lead there.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def target_of(page: str, link: str) -> str | None:
    """The path in the project that a link of a page leads to, if it is outside of docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") else path


def links_below(path: Path) -> set[str]:
    """What a page outside of docs/ links to, relative to the project."""
    folder = path.parent.relative_to(ROOT).as_posix()
    links = LINK.findall(path.read_text(encoding="utf-8"))
    return {posixpath.normpath(posixpath.join(folder, link)) for link in links}


def on_files(files, config):
    """Add the linked files, those that they link to, and what lies in linked folders."""
    waiting = {
        target
        for file in files.documentation_pages()
        for link in LINK.findall(Path(file.abs_src_path).read_text(encoding="utf-8"))
        if (target := target_of(file.src_uri, link))
    }
    found = set()
    while waiting:
        path = ROOT / waiting.pop()
        paths = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
        for part in set(paths) - found:
            found.add(part)
            uri = f"project/{part.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, uri, abs_src_path=str(part)))
            if part.suffix == ".md":
                waiting |= links_below(part)
    return files


def on_page_markdown(markdown, page, config, files):
    """Let the links of a page lead to the added files."""
    source = page.file.src_uri
    if source.startswith("project/"):
        return markdown

    def moved(match: re.Match) -> str:
        target = target_of(source, match[1])
        if target is None:
            return match[1]
        path = ROOT / target
        if path.is_dir():  # a site shows no folders: the first picture of it
            path = sorted(part for part in path.rglob("*.png"))[0]
        return posixpath.relpath(f"project/{path.relative_to(ROOT).as_posix()}", posixpath.dirname(source) or ".")

    return LINK.sub(moved, markdown)
