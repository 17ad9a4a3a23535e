"""The check that a built page loads nothing from another host sees what it must."""

import pytest
from check_offline import loads, main


@pytest.mark.parametrize("text", [
    '<script src="https://cdn.example/x.js"></script>',
    '<link rel="stylesheet" href="//cdn.example/x.css"/>',
    "<img alt='a' src='http://example/x.png'>",
    "@import 'https://cdn.example/x.css';",
    "body{background:url(https://cdn.example/x.png)}",
])
def test_a_foreign_load_is_found(text):
    assert loads(text)


@pytest.mark.parametrize("text", [
    '<a href="https://arxiv.org/abs/2103.13630">a link is not a load</a>',
    '<link rel="canonical" href="https://book.example/"/>',
    '<script src="_static/tex-svg-full.js"></script>',
    "body{background:url(data:image/png;base64,AA)}",
    '<svg xmlns="http://www.w3.org/2000/svg"></svg>',
])
def test_what_loads_nothing_passes(text):
    assert not loads(text)


def test_a_folder_without_pages_fails(tmp_path, capsys):
    assert main(tmp_path) == 1
    (tmp_path / "index.html").write_text("<p>fine</p>")
    assert main(tmp_path) == 0
    assert "nothing is loaded" in capsys.readouterr().out
