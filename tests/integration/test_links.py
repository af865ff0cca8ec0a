"""tools/links.py: the links of README and docs lead to files, headings and known hosts."""

import links
import pytest
from locations import ROOT


@pytest.mark.parametrize("page", links.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_to_files_and_headings(page):
    """No link within the project is broken, down to the heading; web links are https, of a host in the list."""
    assert links.faults(page) == []


def test_every_host_of_the_list_is_linked_to():
    """The list of hosts holds no host that no page names."""
    named = {links.urlsplit(link).netloc for link in links.web_links()}
    assert named == set(links.HOSTS)


def test_broken_links_are_found(tmp_path):
    """A missing file, a missing heading, an unknown host and plain http are a line each; code is left out."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\n[a](gone.md) [b](#one-heading) [c](#other) [d](http://arxiv.org/abs/1) `[e](f.md)`\n"
        "[g](https://evil.example/x) <https://github.com/> [h](https://arxiv.org/abs/1703.06211).\n"
    )
    assert links.faults(page) == [
        "page.md: gone.md: no such file",
        "page.md: #other: no such heading",
        "page.md: http://arxiv.org/abs/1: not https",
        "page.md: https://evil.example/x: evil.example is not in HOSTS of tools/links.py",
        "page.md: https://github.com/: names no page",
    ]


def test_broken_links_of_a_built_site_are_found(tmp_path):
    """A file and an anchor that are missing are named; one out of the site is as good as missing."""
    (tmp_path / "site/api").mkdir(parents=True)
    (tmp_path / "outside.html").write_text("")
    (tmp_path / "site/api/ops.html").write_text('<h2 id="roi">RoI</h2><a href="..">home</a>')
    (tmp_path / "site/index.html").write_text(
        '<a href="api/ops.html#roi">a</a><a href="api/ops.html#gone">b</a><img src="gone.png">'
        '<a href="../outside.html">c</a><a href="https://arxiv.org/abs/1">d</a>'
    )
    assert links.site_faults(tmp_path / "site") == [
        "index.html: api/ops.html#gone: no such anchor",
        "index.html: gone.png: no such file",
        "index.html: ../outside.html: no such file",
    ]


def test_a_web_page_that_does_not_answer_is_named(monkeypatch, capsys):
    """--web opens each link once; the exit status is 1, and a line says why."""
    opened = []

    def refuse(request, timeout):
        opened.append(request.full_url)
        raise links.urllib.error.URLError("no route")

    monkeypatch.setattr(links.urllib.request, "urlopen", refuse)
    assert links.main([]) == 0
    assert opened == []
    assert links.main(["--web"]) == 1
    assert sorted(opened) == sorted(links.web_links())
    assert capsys.readouterr().err.count(": no route\n") == len(opened)
