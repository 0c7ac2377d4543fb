"""What a page says, what it refers to, and how a browser shows it."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """text: that a reader sees, blanks made one. tags: that were opened. refers: addresses."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.refers, self.words, self.open = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.refers += [v for name, v in attributes if name in ("src", "href", "xlink:href")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def assert_whole_in_itself(html):
    """No script, nothing that a browser would fetch, every tag closed. Returns the page."""
    page = Page(html)
    assert "script" not in page.tags and "img" not in page.tags
    assert set(page.refers) == {"data:,"}
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html)
    return page


OUTSIDE = """() => [...document.querySelectorAll("body *")].filter(element => {
    const box = element.getBoundingClientRect();
    const inside = element.closest(".scroll, details > div");
    return box.width && !inside && (box.right > innerWidth + 1 || box.left < -1);
}).map(element => element.outerHTML.slice(0, 100))"""


def assert_shown_well(browser, path, texts):
    """The texts are seen, nothing is outside the window, nothing is asked of the network, nothing
    complains; in windows of a phone, of the narrowest that has tables, and of a desk.
    """
    for width, scheme in ((360, "light"), (901, "light"), (1280, "light"), (1280, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page, told, asked = context.new_page(), [], []
        page.on("console", lambda message, told=told: told.append(message.text))
        page.on("pageerror", lambda error, told=told: told.append(str(error)))
        page.on("dialog", lambda dialog, told=told: told.append(dialog.message))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(path.as_uri())
        for text in texts:
            assert page.get_by_text(text, exact=False).first.is_visible(), text
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OUTSIDE) == []
        scrolled = page.evaluate(
            """() => [...document.querySelectorAll(".scroll, details > div")]
            .filter(x => x.scrollWidth > x.clientWidth + 1).length"""
        )
        assert scrolled == 0 or width < 1280
        assert told == [] and asked == [path.as_uri()]
        # What is folded is there on paper.
        page.emulate_media(media="print")
        if page.locator("details").count():
            assert page.locator("details > div").last.bounding_box()["height"] > 0
        context.close()
