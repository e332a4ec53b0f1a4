"""Whether an answer declines to answer, or says that it does not know or that its source does not say."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SORRY = r"(?:I'?m|I am|we'?re|we are)?\s*(?:so |very |really |truly |terribly )?(?:sorry|afraid)[,.!]?\s*(?:but\s*)?"
_CANNOT = (
    r"(?:can'?t|cannot|can not|couldn't|could not|won't|will not|(?:am|'m|are|'re) (?:not able|unable) to"
    r"|(?:am|'m) not (?:allowed to|comfortable)|(?:must|have to) decline|don't feel comfortable|refuse to"
    r"|(?:would|'d) rather not)"
)
_DO = (
    r"(?:help|assist|answer|provid|discuss|do (?:that|this)|shar|comply|fulfil|support|give (?:you|that|any|out)"
    r"|talk|offer|creat|writ|generat|tell you|say (?:that|anything|more)|continu|engag|advis|respond|comment|complet)"
)
_SOURCE = (
    r"(?:the|this|that|these|our|your|my|its) (?:\w+ ){0,2}?(?:documents?|texts?|sources?|passages?|handbook|articles?|"
    r"contexts?|catalogue|catalog|manual|pages?|information|material|record|report|data|excerpt|paragraphs?|story|guide|"
    r"brochure|file|letter|book|notes?|website|table)(?: (?:given|provided|above|below))?"
)
_FROM = rf"(?:(?:based on|according to|from|in) {_SOURCE},?\s*)?"
_LEAD = (
    rf"(?:(?:hm+|well|oh|(?:a )?(?:good|great) question)[,.!]?\s*(?:but )?)?(?:{_SORRY})?(?:unfortunately,?\s*)?{_FROM}"
)
_NOT = r"(?:(?:do|does|did) not|don't|doesn't|didn't)"
_IS_NOT = r"(?:(?:is|are|was|were) not|isn't|aren't|wasn't|weren't|is nowhere)"
_LOOKED = r"(?:find|tell|say|see|determine|confirm|verify)"
_NOTHING = r"(?:do not have|don't have|not something|outside|against|don't know|do not know|have no)"
REFUSALS = (
    rf"(?:{_SORRY})?(?:unfortunately,?\s*)?(?:that\s*)?(?:I|we)\s*{_CANNOT}\s*(?:\w+\s){{0,3}}?{_DO}",
    rf"{_SORRY}(?:I|we|that|this)\b[^.!?]{{0,40}}(?:{_CANNOT}|\b{_NOTHING})",
    rf"as an? (?:AI|artificial intelligence|large language|language)\b[^.!?]{{0,80}}(?:{_CANNOT}|\bdo not\b|\bdon't\b)",
    r"(?:I|we) (?:don't|do not) have (?:any |access|enough |the |that )(?:to|information|knowledge|data|details|idea)?",
    rf"{_LEAD}(?:I|we) have no (?:information|idea|details?|data|knowledge|answer)\b",
    r"(?:I|we) (?:really |simply |just )?(?:don't|do not) know\b",
    r"I'?(?:m| am) not sure\b(?![^.!?]*\bbut\b)",
    rf"{_LEAD}(?:I|we) {_CANNOT}\s*(?:\w+\s){{0,2}}?{_LOOKED}",
    r"(?:I|we) must (?:respectfully |politely )?(?:decline|refuse)",
    r"(?:no comment|this request violates|your request (?:violates|goes against))",
    r"it (?:would|is) not (?:be )?appropriate for me to",
)
"""How an answer declines, from the beginning of a sentence."""
UNKNOWN = (
    rf"{_SOURCE} {_NOT} (?:say|state|mention|specify|contain|include|provide|give|tell|answer|list|name|cover)\b",
    rf"{_SOURCE} (?:gives?|has|have|contains?|provides?|says?) "
    r"(?:no (?:information|details?|answer|mention|word)|nothing)\b",
    rf"[^.!?,;:]{{1,60}} {_IS_NOT} (?:stated|mentioned|specified)\b(?: (?:in|by|anywhere|here|there)\b|[.!]?\s*\Z)",
    rf"[^.!?,;:]{{1,60}} {_IS_NOT} (?:(?:said|given|provided|covered|listed|available|found|included|contained) )?"
    rf"(?:in|by) {_SOURCE}",
    rf"(?:it|that) {_NOT} (?:say|state|mention|specify)\b(?=\s*[.!]|\s*\Z| (?:wh\w+|how|if|anything|that|it|this)\b)",
    r"(?:it|this|that|the answer) (?:is not|isn't) known\b(?! (?:for|as|to)\b)",
    r"(?:it|this|that|the answer) (?:cannot|can't|can not|could not) be (?:answered|determined|known|said|found)\b",
    r"(?:there is |there's )?(?:no|not enough|insufficient) (?:information|mention|details?|data|record|answer)"
    r"(?:\s*[.!]|\s*\Z| (?:is (?:given|available|provided|known)|about|on|regarding|in|of)\b)",
    r"no (?:information|details?|data|answer) (?:is|are) (?:given|available|provided|stated)\b",
    r"(?:there is |there's )?(?:nothing|no word) (?:is (?:said|known|stated) )?(?:about|on|of) (?:this|that|it)\b",
    r"(?:it is |it's |that is |that's )?(?:unknown|unanswerable|not answerable)\s*(?:[.!]|\Z)",
    r"(?:it is |it's |that is |that's )?(?:impossible|not possible) to (?:answer|say|tell|determine|find out|know)\b",
    r"(?:nobody|no one) knows\b",
)
"""How it says that nobody told it, behind "Unfortunately" or "According to the text" too."""
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE) for pattern in (*REFUSALS, *(_LEAD + pattern for pattern in UNKNOWN))
)


def declines(answer: str, more: Sequence[str] = ()) -> tuple[int, int] | None:
    """Where the words stand with which an answer declines to answer, or says that it cannot know, at the beginning of
    its first two sentences; None where it does not. `more` are patterns that may stand anywhere. "Sorry to hear that",
    a refusal that is quoted, and "the warranty does not cover it" are none."""
    text = answer.replace("’", "'")
    lead = len(text) - len(text.lstrip())
    starts = [lead, *(m.end() for m in list(re.finditer(r"[.!?]\s+", text))[:1])]
    for start in starts:
        for pattern in _PATTERNS:
            if found := pattern.match(text, start):
                return found.span()
    for own in more:
        if found := re.search(own, text, re.IGNORECASE):
            return found.span()
    return None
