"""Slack's own markup -> Markdown: mentions, links, emoji, entities, code."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable

EMOJI = {
    "+1": "👍", "thumbsup": "👍", "-1": "👎", "thumbsdown": "👎", "smile": "😄", "simple_smile": "🙂", "smiley": "😃",
    "slightly_smiling_face": "🙂", "grin": "😁", "grinning": "😀", "joy": "😂", "laughing": "😆", "wink": "😉",
    "blush": "😊", "sweat_smile": "😅", "sob": "😭", "cry": "😢", "disappointed": "😞", "worried": "😟", "heart": "❤️",
    "thinking_face": "🤔", "tada": "🎉", "clap": "👏", "pray": "🙏", "raised_hands": "🙌", "bow": "🙇", "wave": "👋",
    "ok_hand": "👌", "muscle": "💪", "fire": "🔥", "100": "💯", "eyes": "👀", "rocket": "🚀", "warning": "⚠️",
    "white_check_mark": "✅", "heavy_check_mark": "✔️", "ballot_box_with_check": "☑️", "x": "❌", "question": "❓",
    "exclamation": "❗", "bulb": "💡", "memo": "📝", "link": "🔗", "lock": "🔒", "key": "🔑", "bug": "🐛", "zap": "⚡",
    "boom": "💥", "sparkles": "✨", "star": "⭐", "point_up": "☝️", "point_right": "👉", "point_down": "👇",
    "man-shrugging": "🤷", "woman-shrugging": "🤷", "shrug": "🤷", "facepalm": "🤦", "man-facepalming": "🤦",
    "hugging_face": "🤗",
    "sunglasses": "😎", "stuck_out_tongue": "😛", "neutral_face": "😐", "confused": "😕", "upside_down_face": "🙃",
}  # fmt: skip
SHORTCODE = re.compile(r":([a-z0-9_+'-]+):(?::skin-tone-\d:)?")
ANGLE = re.compile(r"<([^<>\n]{1,4000})>")
FENCE = re.compile(r"```(.*?)```", re.S)
SPAN = re.compile(r"`[^`\n]+`")
BOLD = re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])")
STRUCK = re.compile(r"(?<![\w~])~(?=\S)([^~\n]+?)(?<=\S)~(?![\w~])")

Names = Callable[[str, str], str]
"""(kind: user|channel, id) -> the name to write."""


def markdown_of(text: str, named: Names) -> str:
    """A message's text as Markdown, people and channels by the names given."""
    parts = []
    for at, part in enumerate(FENCE.split(text)):
        if at % 2:
            code = html.unescape(ANGLE.sub(lambda found: in_code(found[1]), part)).strip("\n")
            parts.append(f"\n```\n{code}\n```\n" if code.strip() else "")
        else:
            parts.append(outside_code(part, named))
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).strip()


def outside_code(text: str, named: Names) -> str:
    """Text between code blocks; what stands in `single ticks` is left as it is."""
    parts, end = [], 0
    for span in SPAN.finditer(text):
        parts += [prose(text[end : span.start()], named), html.unescape(ANGLE.sub(lambda f: in_code(f[1]), span[0]))]
        end = span.end()
    return "".join([*parts, prose(text[end:], named)])


def prose(text: str, named: Names) -> str:
    """Slack marks bold with one star and strikes with one tilde; links are set aside first, they hold both."""
    links: list[str] = []

    def aside(found: re.Match[str]) -> str:
        links.append(html.unescape(angle(found[1], named)))
        return f"\0{len(links) - 1}\0"

    marked = ANGLE.sub(aside, text.replace("\0", ""))
    marked = html.unescape(STRUCK.sub(r"~~\1~~", BOLD.sub(r"**\1**", marked)))
    return re.sub(r"\0(\d+)\0", lambda found: links[int(found[1])], SHORTCODE.sub(emoji, marked))


def angle(inside: str, named: Names) -> str:
    """What stands between < and >: <@U1> <#C1|general> <!here> <!date^1|Monday> <https://x.org|label>."""
    target, _, label = inside.partition("|")
    if target.startswith("@"):
        return f"@{named('user', target[1:])}"
    if target.startswith("#"):
        return f"#{label or named('channel', target[1:])}"
    if target.startswith("!"):
        return label if label else "@" + target[1:].split("^")[0]
    if target.startswith(("mailto:", "tel:")):
        return label or target.partition(":")[2]
    if re.match(r"[a-z][a-z0-9+.-]*:", target, re.I):
        same = not label or label == target or label.rstrip("/") == target.split("://")[-1].rstrip("/")
        return target if same else f"[{label}]({target})"
    return f"<{inside}>"  # someone's own angle brackets


def in_code(inside: str) -> str:
    """Slack makes links of addresses in code, too: there the words are meant."""
    target, _, label = inside.partition("|")
    linked = re.match(r"(?:https?|ftp|mailto|tel):", target)
    return (label or target) if linked else f"<{inside}>"


def emoji(found: re.Match[str]) -> str:
    """The character of a shortcode: by our table, else by Unicode's own name; a team's own emoji stays as written."""
    code = found[1]
    if code in EMOJI:
        return EMOJI[code]
    try:
        character = unicodedata.lookup(code.replace("_", " ").replace("-", " "))
    except KeyError:
        return found[0]
    return character if unicodedata.category(character) == "So" else found[0]
