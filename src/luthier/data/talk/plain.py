"""What a person wrote in a mail or a ticket: without HTML, without the mail it answers, without signature and small
print."""

from __future__ import annotations

import re
from html.parser import HTMLParser

LONGEST = 200_000
"""Characters of a message that are looked at; what is longer was not typed."""
HIDDEN = {"script", "style", "head", "title", "template", "noscript", "svg", "object"}
BREAKS = {
    "p",
    "div",
    "br",
    "tr",
    "table",
    "ul",
    "ol",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "pre",
    "hr",
    "section",
    "article",
}
QUOTES = re.compile(
    r"gmail_quote|yahoo_quoted|moz-cite|divRplyFwdMsg|appendonsend|zendesk.*quote|protonmail_quote", re.I
)
SIGNED = re.compile(r"gmail_signature|moz-signature|signature", re.I)
VOID = {"br", "hr", "img", "input", "meta", "link", "area", "base", "col", "embed", "source", "track", "wbr"}


class Page(HTMLParser):
    """Collects the text of a message's HTML; quoted mail, signatures, scripts and styles are left out. (html.parser
    wants to be inherited from.)"""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.open: list[tuple[str, bool]] = []
        """(tag, whether what is in it is hidden) of the elements not closed yet."""
        self.link: str | None = None
        self.linked = 0

    @property
    def hidden(self) -> bool:
        return bool(self.open) and self.open[-1][1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens an element; links remember where they lead, items get their dash."""
        said = {name: value or "" for name, value in attrs}
        mark = f"{said.get('class', '')} {said.get('id', '')}"
        hides = tag in HIDDEN or tag == "blockquote" or bool(QUOTES.search(mark) or SIGNED.search(mark))
        if tag not in VOID and len(self.open) < 10_000:
            self.open.append((tag, self.hidden or hides))
        if self.hidden:
            return
        if tag in BREAKS:
            self.parts.append("\n")
        elif tag == "li":
            self.parts.append("\n- ")
        elif tag == "a" and re.match(r"https?:", said.get("href", "")):
            self.link, self.linked = said["href"], len(self.parts)

    def handle_endtag(self, tag: str) -> None:
        """Closes an element, and those in it that nobody closed."""
        if tag not in [name for name, _ in self.open[-50:]]:
            return
        shown = not self.hidden
        while self.open and self.open.pop()[0] != tag:
            pass
        if tag == "a" and self.link is not None and shown:
            label = "".join(self.parts[self.linked :]).strip()
            if label and label.rstrip("/") not in (self.link.rstrip("/"), self.link.split("://")[-1].rstrip("/")):
                self.parts[self.linked :] = [f"[{label}]({self.link})"]
            self.link = None
        elif tag in BREAKS and shown:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        """Text, its white space as one blank."""
        if not self.hidden:
            inside = any(tag == "pre" for tag, _ in self.open[-5:])
            self.parts.append(data if inside else re.sub(r"\s+", " ", data))


def text_of_html(html: str) -> str:
    """The text of a message's HTML, paragraphs apart, lists as lists, links as Markdown."""
    page = Page()
    page.feed(html[: 5 * LONGEST])
    page.close()
    lines = [" ".join(line.split()) for line in "".join(page.parts).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


TAG = re.compile(r"</?(?:p|div|br|span|a|ul|ol|li|b|i|strong|em|html|body|table|blockquote|img|h\d)\b[^>]*>", re.I)


def plain_text(text: str) -> str:
    """A text field that may hold HTML, as text."""
    text = text[: 5 * LONGEST].replace("\r\n", "\n").replace("\0", "")
    return text_of_html(text) if TAG.search(text) else text


INTRODUCED = re.compile(
    r"^[ \t>*_]*(?:"
    r"on\b.{4,200}?\b(?:wrote|writes)\s*:|am\b.{4,200}?\bschrieb\b.{0,120}?:|le\b.{4,200}?\ba écrit\s*:"
    r"|el\b.{4,200}?\bescribió\s*:"
    r"|-{2,}\s*(?:original message|forwarded message|ursprüngliche nachricht|message d'origine)\b.*"
    r"|_{10,}\s*$"
    r"|from:.{1,200}\n[ \t>*_]*(?:sent|date|to|subject|cc):.*"
    r"|##-? ?please type your reply above this line.*"
    r")",
    re.I | re.M,
)
WRAPPED = re.compile(r"^(On\b[^\n]{4,160})\n([^\n]{0,120}\bwrote:)[ \t]*$", re.M)
SIGNATURE = re.compile(
    r"^(?:-- ?|__+|—{1,3})$|^[ \t]*(?:sent from my \w+|sent via \w+|get outlook for \w+|sent with \w+"
    r"|von meinem \w+ gesendet).*$",
    re.I | re.M,
)
REGARDS = re.compile(
    r"^[ \t]*(?:(?:best|kind|kindest|warm|warmest|many thanks and|with best|with kind)?[ \t]*(?:regards|wishes)|best"
    r"|cheers|"
    r"sincerely|yours(?: (?:sincerely|truly|faithfully))?|respectfully|thanks(?: again)?|thank you|many thanks|thx"
    r"|br|kr|"
    r"mit freundlichen grüßen|viele grüße|cordialement|saludos|all the best)[ \t]*[,.!]?[ \t]*$",
    re.I | re.M,
)
SMALL_PRINT = re.compile(
    r"^[^\n]{0,40}\b(?:confidentiality notice|disclaimer\s*:|this (?:e-?mail|message|communication)(?:,? (?:and"
    r"|including)[^.\n]{0,60})?"
    r" (?:is|are|may be|may contain|contains|is intended)\b[^\n]{0,80}(?:confidential|intended|privileged)|"
    r"if you (?:are not|have received this (?:e-?mail|message) in error)|please consider the environment|"
    r"the information (?:contained )?in this (?:e-?mail|message)|unsubscribe from|you (?:are receiving|received) this "
    r"(?:e-?mail|message) because)",
    re.I | re.M,
)


def own_words(text: str) -> str:
    """What a mail's author wrote: cut where quoted mail, signature or small print begins, `>` lines out."""
    text = WRAPPED.sub(r"\1 \2", text[:LONGEST].replace("\xa0", " ").replace("\u200b", ""))
    cuts = [found.start() for pattern in (INTRODUCED, SIGNATURE, SMALL_PRINT) if (found := pattern.search(text))]
    kept = text[: min(cuts)] if cuts else text
    if not kept.strip():  # the answer stands below what it quotes
        introduced = INTRODUCED.search(text)
        kept = text[introduced.end() :] if introduced and not text[: introduced.start()].strip() else text
    kept = "\n".join(line for line in kept.split("\n") if not re.match(r"[ \t]*>", line))
    kept = without_regards(kept)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in kept.split("\n"))).strip()


def without_regards(text: str) -> str:
    """The text without its good-bye, when nothing but a name and its lines follows (up to six short ones)."""
    for found in REGARDS.finditer(text):
        after = [line for line in text[found.end() :].split("\n") if line.strip()]
        if (
            len(after) <= 6
            and all(len(line) <= 70 and not line.rstrip().endswith("?") for line in after)
            and found.start() > 0
        ):
            thanks = re.match(r"\s*(?:many )?(?:thanks|thank you|thx)", found[0], re.I)
            if not thanks or after:
                return text[: found.start()]
    return text
