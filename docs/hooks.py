"""What mkdocs does besides: the reference is made from the code, links that leave `docs/` are followed.

A link such as `../benchmarks/search.md` works in a checkout, where `docs/` is a folder beside others. In the
site it leads to a copy of that file, which this file puts there.
"""

import re
from functools import cache
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import TYPE_CHECKING

from docs import reference

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()((?!https?:|#|mailto:)[^)#\s]+)")
# Of the files outside of docs/ those that are in the navigation.
ALWAYS = ("CONTRIBUTING.md", "CHANGELOG.md")


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Adds the generated pages, and the files outside of `docs/` that pages link to."""
    from mkdocs.structure.files import File

    for name, make in reference.PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    for path in sorted(outside()):
        content = (ROOT / path).read_bytes()
        files.append(
            File.generated(config, path, content=content.decode("utf-8") if path.endswith(".md") else content)
        )
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Links as the site has them: pages of `docs/` and copies from elsewhere lie below one root."""
    here = page.file.src_uri
    inside = (DOCS / here).exists()
    return LINK.sub(lambda match: match[1] + in_site(here, match[2], from_docs=inside), markdown)


@cache
def outside() -> frozenset[str]:
    """Files outside of `docs/` that pages of the site link to, and those to which these link in turn."""
    paths = {path for page in DOCS.glob("*.md") for path in _links(page)} | set(ALWAYS)
    while more := {path for page in paths if page.endswith(".md") for path in _links(ROOT / page)} - paths:
        paths |= more
    return frozenset(paths)


def in_site(page: str, link: str, *, from_docs: bool) -> str:
    """A relative link of a page, which works in a checkout, as one that works in the site.

    page: its path in the site.  from_docs: whether it lies in `docs/`, or is a copy from elsewhere.
    """
    folder = PurePosixPath("docs" if from_docs else "", page).parent
    target = normpath((folder / link).as_posix())
    if not target.startswith("docs/") and target not in outside():
        return link
    return relpath(target.removeprefix("docs/"), PurePosixPath(page).parent.as_posix())


def _links(page: Path) -> set[str]:
    targets = {
        (page.parent / link).resolve().relative_to(ROOT.resolve()).as_posix()
        for _, link in LINK.findall(page.read_text("utf-8"))
    }
    return {path for path in targets if not path.startswith("docs/") and (ROOT / path).is_file()}
