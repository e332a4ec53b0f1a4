"""Junk in a text: signs that nobody wrote it, or that it was not meant for a reader. One small function a kind.

The rules are narrow: each says no more than its patterns do. What a prompt asks for (a template, HTML) is none.
"""

from __future__ import annotations

import re

_CODE = re.compile(r"```[\s\S]*?(?:```|\Z)|`[^`\n]+`|^(?: {4}|\t).*$", re.MULTILINE)
_TABLE = re.compile(r"^\s*\|.*\|\s*$", re.MULTILINE)
_MOJIBAKE = re.compile(
    r"Ã[\x80-\xbf]|â€.|â[\x80-\xbf]{2}|Â[\xa0-\xbf]|ï»¿|ðŸ|\ufffd|Ð[\x80-\xbf]Ð|[\x00-\x08\x0b\x0c\x0e-\x1f]"
)
"""UTF-8 that was read as Latin-1 or Windows-1252; the sign for what could not be read; control characters."""
_TAG = re.compile(
    r"</?(?:a|b|br|center|div|em|font|footer|h[1-6]|head|header|hr|html|i|iframe|img|input|li|link|meta|nav|ol|p|pre|"
    r"script|section|small|span|strong|style|sub|sup|table|tbody|td|th|tr|u|ul)(?:\s[^<>]{0,300})?/?>"
    r"|&(?:nbsp|amp|lt|gt|quot|apos|mdash|ndash|hellip|rsquo|lsquo|#\d{2,5}|#x[0-9a-f]{2,5});"
    r"|\[\[[^\[\]\n]{1,80}\]\]|\{\{[^{}\n]{1,80}\}\}|\[/?(?:b|i|url|img|quote|code|size|color)(?:=[^\]\n]{0,80})?\]"
    r"|\[edit\]|\[citation needed\]|\x1b\[[0-9;]*m",
    re.IGNORECASE,
)
_ABOUT_MARKUP = re.compile(
    r"\b(?:html|css|xml|markup|tags?|web ?pages?|website|jinja|latex|wiki|template|code|jsx?|react|vue|php|bbcode)\b",
    re.I,
)
_PLACEHOLDER = re.compile(
    r"\[(?!(?:email|phone) \d+\])"  # private.py wrote it
    r"(?:your|insert|enter|add|company|customer|client|product|recipient|sender|first|last|full|name|date|link|url|"
    r"address|phone|e-?mail|city|number|title|brand|location|city)(?:['’]s)?(?:[ _-][^\[\]\n]{0,40})?\](?!\()"
    r"|<insert[ _-][^<>\n]{1,30}>|\{(?:your|insert|customer|user|first|last|company|product)?_?"
    r"(?:name|date|email|answer|question|text|company|product)\}"
    r"|\blorem ipsum\b|\bINSERT [A-Z ]{2,30} HERE\b|\bTODO:|\bTBD\b|\bX{3,}\b(?!\s*(?:size|large|L\b))",
    re.IGNORECASE,
)
_ASKS_FOR_FORM = re.compile(
    r"\b(?:templates?|letters?|e-?mails?|drafts?|forms?|cover|contracts?|invoices?|memo|scripts?|placeholders?|message|"
    r"resignation|reference|speech|invitation|announcement|code|function|resume|cv)\b",
    re.IGNORECASE,
)
_MACHINE = re.compile(
    r"\bas an? (?:(?:AI|artificial intelligence|large)\b[ -]?(?:powered )?)?"
    r"(?:AI|language model|text-based|chat ?bot|virtual assistant)\b"
    r"|\b(?:I am|I['’]m) (?:just |only )?(?:an AI|a (?:large )?language model|a machine learning model|ChatGPT)\b"
    r"|\bmy (?:knowledge|training)(?: data)? (?:cut-?off|ends|only goes)"
    r"|\bas of my last (?:knowledge |training )?update\b"
    r"|\bI (?:cannot|can['’]t|do not|don['’]t) (?:have (?:access to (?:the internet|real-?time)|personal (?:opinions|"
    r"experiences?|beliefs|feelings))|browse the (?:internet|web))|\bregenerate response\b",
    re.IGNORECASE,
)
_ABOUT_MACHINES = re.compile(
    r"\b(?:you|yourself|AI|chat ?bots?|language models?|LLMs?|ChatGPT|GPT|assistants?)\b", re.I
)
_PAGE = re.compile(
    r"\ball rights reserved\b|\b(?:subscribe|sign up) (?:to|for) (?:our|the) newsletter\b|\bthis (?:site|website) uses "
    r"cookies\b|\baccept (?:all )?cookies\b|\bclick here to\b|\bshare (?:this|on) (?:post|article|facebook|twitter)\b"
    r"|\bskip to (?:main )?content\b|\bread more »|\bjavascript (?:is disabled|must be enabled)\b|\bprivacy policy \|"
    r"|\bterms of (?:use|service) \||\bpowered by wordpress\b|\b\d+ comments?\s*\|",
    re.IGNORECASE,
)
_STUB = re.compile(
    r"(?:(?:todo|tbd|tba|tbc|fixme|xxx+|n/a|null|nan|idk|ditto|lol|placeholder|(?:same )?as (?:above|below)"
    r"|see (?:above|below)|coming soon|work in progress|(?:insert|add) (?:text|answer) here)[\s.,:!]*)+",
    re.I,
)
"""What people write who mean to come back."""
LEAST_TAGS = 2
"""Bits of markup in a text that nobody asked markup of: one may be meant."""
VOWELLESS_FRAC = 0.4
"""Words of three letters or more without a vowel: of English words 1 %, of abbreviations and keyboard mash more."""
LONGEST_WORD = 45
"""Letters: the longest word of a large English dictionary."""
VOWELS = frozenset("aeiouyàâäéèêëïîôöùûüæœåøáíóúãõ")
LEAST_WORD_FRAC = 0.4
"""Letters and digits among the characters that are no blanks; prose has 0.95, a formula 0.6."""


def without_code(text: str) -> str:
    """A text without its code and tables."""
    return _TABLE.sub(" ", _CODE.sub(" ", text))


def mojibake(text: str) -> list[str]:
    """What was read in a wrong encoding, and control characters."""
    return _MOJIBAKE.findall(text)


def markup(text: str, prompt: str = "") -> list[str]:
    """Tags, entities and wiki marks outside code, where the prompt does not speak of such."""
    return [] if _ABOUT_MARKUP.search(prompt) else [found[0] for found in _TAG.finditer(without_code(text))]


def placeholders(text: str, prompt: str = "") -> list[str]:
    """Blanks that nobody filled in, where the prompt asked for no form: "[Your Name]", "lorem ipsum"."""
    return [] if _ASKS_FOR_FORM.search(prompt) else [found[0] for found in _PLACEHOLDER.finditer(without_code(text))]


def machine_talk(text: str, prompt: str = "") -> list[str]:
    """What assistants say of themselves when nobody asked: "As an AI language model"."""
    return [] if _ABOUT_MACHINES.search(prompt) else [found[0] for found in _MACHINE.finditer(text)]


def page_rest(text: str) -> list[str]:
    """What stands around the text of a web page: cookies, newsletters, sharing."""
    return [found[0] for found in _PAGE.finditer(text)]


def mash(text: str) -> str:
    """Why a text is no language: letters at random, one endless word, marks only; '' where it may be one."""
    plain = re.sub(r"https?://\S+|\S*[/\\_=@]\S*", " ", without_code(text))
    marks = "".join(plain.split())
    if len(marks) >= 20 and sum(map(str.isalnum, marks)) < LEAST_WORD_FRAC * len(marks):
        return "consists of marks, not of words"
    words = re.findall(r"[a-z]+", plain.casefold()) if plain.isascii() or _latin(plain) else []
    if any(len(word) > LONGEST_WORD for word in words):
        return "has a word that is too long to be one"
    if re.search("[bcdfghjklmnpqrstvwxz]{7}", " ".join(words)):  # "latchstring" has six
        return "has letters in a row that no word has"
    tried = [word for word in words if len(word) >= 3]
    if len(tried) >= 5 and sum(VOWELS.isdisjoint(word) for word in tried) > VOWELLESS_FRAC * len(tried):
        return "its words have no vowels"
    return ""


def stub(text: str) -> bool:
    """Whether a text holds the place of an answer that nobody wrote: "TODO", "see above", "n/a"."""
    return _STUB.fullmatch(text.strip(" \t\n.!…-()[]")) is not None


def _latin(text: str) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    return sum(ord(letter) < 0x250 for letter in letters) > 0.9 * len(letters)
