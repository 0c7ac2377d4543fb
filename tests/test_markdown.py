"""What comes from outside shows in Markdown as it was written, judged by a reader of Markdown."""

import re
from html import unescape

import pytest
from markdown_it import MarkdownIt

from rka_fast.files import markdown_code, markdown_text

HOSTILE = (
    "a|b",
    "*bold* _slanted_ in_a_word __main__ ~~gone~~",
    "<script>alert(1)</script> <!-- -->",
    "[link](http://x) ![](y) <http://z>",
    "`code` ``more`` \\` \\",
    "&lt; &amp; # title",
    "two\nlines\n\n# three",
)


def shown(html):
    return unescape(re.sub(r"<[^>]*>", "", html))


def one_line(text):
    return " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_only_text(text):
    reader = MarkdownIt("gfm-like", {"linkify": False})
    assert shown(reader.render(f"- x: {markdown_text(text)}")).strip() == f"x: {one_line(text)}"
    table = reader.render(f"| a | b |\n| --- | --- |\n| {markdown_text(text)} | 1 |")
    assert re.findall(r"<td>(.*?)</td>", table)[1:] == ["1"]
    assert shown(re.findall(r"<td>(.*?)</td>", table)[0]) == one_line(text)
    assert re.sub(r"</?(table|thead|tbody|tr|th|td|)>", "", table).count("<") == 0


@pytest.mark.parametrize("text", HOSTILE)
def test_code_is_only_code(text):
    html = MarkdownIt("commonmark").render(f"- x: {markdown_code(text)}")
    assert unescape(re.search(r"<code>(.*)</code>", html)[1]) == one_line(text)
