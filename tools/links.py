"""Checks the links of the pages: `python tools/links.py [--site FOLDER] [--web]`.

Links within the project lead to files and headings, in the Markdown and, with --site, in the built pages. Links to the
web are well formed and name a host of `HOSTS`; --web opens them, for people with a network.
"""

from __future__ import annotations

import argparse
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
HOSTS = {
    "arxiv.org": "the paper",
    "github.com": "code and data sets of others",
    "www.robots.ox.ac.uk": "the data set flowers17",
}
"""Hosts that the pages may link to, and what they hold."""
SECONDS = 20
"""Time for a web page to answer."""
_MARKDOWN = re.compile(r"\]\(<?([^)\s>]+)>?[^)]*\)")
_WEB = re.compile(r"https?://[^\s)>\"'`\]]*")
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def pages(root: Path = ROOT) -> list[Path]:
    """The Markdown pages of the project."""
    return sorted({*root.glob("*.md"), *root.glob("benchmarks/*.md"), *root.glob("docs/**/*.md")})


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def faults(page: Path) -> list[str]:
    """The links of a Markdown page within the project that lead nowhere, and its web links that are malformed."""
    text = _CODE.sub("", page.read_text())
    broken = []
    for link in _MARKDOWN.findall(text):
        if urlsplit(link).scheme:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)) if path else page
        if not target.exists():
            broken.append(f"{page.name}: {link}: no such file")
        elif anchor and anchor not in anchors(target):
            broken.append(f"{page.name}: {link}: no such heading")
    return broken + [f"{page.name}: {fault}" for fault in map(web_fault, _WEB.findall(text)) if fault]


def web_links() -> dict[str, str]:
    """The web links of all pages, each with a page that has it."""
    return {link.rstrip(".,;"): page.name for page in pages() for link in _WEB.findall(_CODE.sub("", page.read_text()))}


def web_fault(link: str) -> str | None:
    """Why a web link is refused; None: it is well formed, of a known host."""
    parts = urlsplit(link.rstrip(".,;"))
    if parts.scheme != "https":
        return f"{link}: not https"
    if parts.netloc not in HOSTS:
        return f"{link}: {parts.netloc or 'no host'} is not in HOSTS of tools/links.py"
    return None if parts.path.strip("/") else f"{link}: names no page"


class _Html(HTMLParser):
    """The anchors of a built page, and the links that leave it."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag's id, href and src."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            elif name in ("href", "src") and value and not urlsplit(value).scheme:
                self.links.append(value)


def site_faults(site: Path) -> list[str]:
    """The links of built pages that lead to no file or no anchor of the site."""
    built = {path.resolve(): _Html() for path in site.rglob("*.html") if path.name != "404.html"}
    for path, html in built.items():
        html.feed(path.read_text())
    return list(_site_faults(site.resolve(), built)) if built else [f"{site} holds no page"]


def _site_faults(site: Path, built: dict[Path, _Html]) -> Iterator[str]:
    for path, html in built.items():
        for link in dict.fromkeys(html.links):
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_relative_to(site) or not target.is_file():
                yield f"{path.relative_to(site)}: {link}: no such file"
            elif parts.fragment and target in built and unquote(parts.fragment) not in built[target].ids:
                yield f"{path.relative_to(site)}: {link}: no such anchor"


def open_web(link: str) -> str | None:
    """Open a web page; the reason where it does not answer well."""
    request = urllib.request.Request(link, headers={"User-Agent": "Mozilla/5.0 (links of dcnlab's pages)"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        return f"{link}: {getattr(error, 'reason', None) or error}"


def main(words: list[str] | None = None) -> int:
    """Print the faults; the exit status is 1 where there are some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", type=Path, help="also check the pages that mkdocs built here")
    parser.add_argument("--web", action="store_true", help="also open every web link")
    options = parser.parse_args(words)
    broken = [fault for page in pages() for fault in faults(page)]
    if options.site is not None:
        broken += site_faults(options.site)
    if options.web:
        broken += [f"{page}: {fault}" for link, page in web_links().items() if (fault := open_web(link))]
    for fault in broken:
        print(fault, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
