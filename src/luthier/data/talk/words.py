"""What the words of a message say about its part in a conversation: a question, an answer, thanks, or neither."""

from __future__ import annotations

import re
from functools import lru_cache

KEPT = 4096
"""Texts of which what was found is remembered: a reply is held against several questions."""
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.S)
URL = re.compile(r"\b(?:https?|ftp)://[^\s<>|\"'\])}]+")
QUOTED = re.compile(r"^[ \t]*>.*$", re.M)
WORD = re.compile(r"[^\W\d_][\w'’-]*")

_OPENERS = (
    r"(?:(?:so|and|but|also|hey|hi|hello|ok|okay|well|btw|guys|all|folks|team|everyone|sorry|please|quick question|"
    r"question|morning|good morning|good afternoon)\b[\s,.:;!…-]*)*"
)
_ASKING = (
    r"(?:who|whom|whose|what|what's|whats|when|where|where's|why|how|how's|which|is|isn't|are|aren't|am|was|were|do|"
    r"don't|does|doesn't|did|didn't|can|can't|could|couldn't|should|shouldn't|would|will|won't|has|hasn't|have|had|"
    r"may|might|any|anyone|anybody|someone|somebody)"
)
ASKS = re.compile(rf"^{_OPENERS}{_ASKING}\b", re.I)
WH_ASKS = re.compile(
    rf"^{_OPENERS}(?:how|what|where|why|when|who|which)\s+(?:do|does|did|is|are|was|were|can|could|should|would|will|"
    r"to)\b",
    re.I,
)
SEEKS_HELP = re.compile(
    r"\b(?:(?:does|do) any(?:one|body)|any(?:one|body) (?:know|here|have|else|able|seen)|(?:can|could) (?:someone|"
    r"somebody|anyone|you)|any (?:ideas?|advice|pointers|suggestions|clue|help|chance)|(?:need|looking for) "
    r"(?:some )?(?:help|advice|someone)|help (?:me|with|needed|please)|how (?:do|can|should|would) (?:i|we|you)|"
    r"is there (?:a|any|some)|what(?:'s| is) the (?:best|right|way|process|difference)|wondering (?:if|how|what|"
    r"whether|why)|trying to (?:figure|find|understand|get)|i (?:can't|cannot|can not|couldn't|don't (?:know|"
    r"understand))|not sure (?:how|what|why|where|if)|(?:doesn't|does not|isn't|not|stopped) (?:work|working)\b|"
    r"(?:get|gets|getting|got|seeing|see|throws|keeps?)\s+(?:[\w#%-]+\s+){0,4}(?:error|exception|"
    r"failure|timeout)|locked out)",
    re.I,
)
THANKS = re.compile(
    r"\b(?:thanks|thank you|thx|tnx|ty|tysm|cheers|many thanks|appreciate (?:it|that|the)|much appreciated|"
    r"merci|danke)\b|\b(?:that|this|it|which) (?:worked|works(?: now)?|fixed it|did (?:it|the trick)|solved it|"
    r"helps|helped)\b|\b(?:works now|working now|perfect|awesome|got it|you rock|lifesaver|problem solved|solved)\b|"
    r"[🙏🙌]",
    re.I,
)
UNSOLVED = re.compile(
    r"\b(?:still (?:not|doesn't|does not|no|the same|getting|failing|broken|see|can't)|no luck|didn't (?:work|help)|"
    r"did not (?:work|help)|doesn't (?:work|help)|does not (?:work|help)|same (?:error|issue|problem) |"
    r"(?:already|just) tried (?:that|it)|not (?:working|fixed|solved))\b",
    re.I,
)
NO_ANSWER = re.compile(
    r"^\W*(?:(?:i have |i've )?no (?:idea|clue)|(?:i'm |im |i am )?not sure|dunno|i (?:don't|do not|dont) know|idk|"
    r"same (?:here|question|issue|problem|for me)|me (?:too|neither)|\+1|following|bump|any (?:update|news|luck)|"
    r"let me (?:check|look|see|ask|find out)|i'll (?:check|look|take a look|have a look|ask|get back)|looking|"
    r"checking|one (?:sec|moment)|good question|great question|hmm+|it depends what|depends (?:on )?what you mean"
    r"|what do you mean|wondering (?:that|the same))\b",
    re.I,
)
_TALK = (
    r"l+o+l+|lmao|rofl|ha(?:ha)+|heh+|he(?:he)+|hi|hey|hello|yo|(?:good )?(?:morning|night|evening|afternoon)|bye"
    r"|brb|afk|"
    r"gtg|nice|cool|wow|great|awesome|perfect|sweet|neat|ok+|okay|kk?|yep|yup|yeah|yes|no|nope|sure|right|true|"
    r"congrats|congratulations|welcome|np|yw|no (?:problem|worries)|you'?re welcome|anytime|my pleasure|oh|ah+|oops"
    r"|ouch|"
    r"same|sounds good|good (?:one|point|stuff|job)|well done|done|happy (?:birthday|friday|monday)|on it|will do"
    r"|got it|"
    r"i see|exactly|agreed|indeed|roger|ack|me|love it|makes sense|that makes sense|all|everyone|guys|team|folks|there|"
    r"then|man|dude|mate|that|it|so much|actually|never ?mind|nvm|thanks|thank you|thx|ty|cheers"
)
SMALL_TALK = re.compile(rf"^\W*(?:{_TALK})(?:\W+(?:{_TALK}))*\W*$", re.I)
ANNOUNCES = re.compile(
    r"^\W*(?:fyi|psa|reminder|heads[ -]up|announcement|attention|please note|@(?:here|channel|everyone))\b|"
    r"^\W*(?:the |our |a )?(?:new )?[\w ]{2,40} (?:is|are) (?:out|live|now live|available|now available)\b|"
    r"\bi(?:'ll| will|'m| am) (?:be )?(?:out|away|off|afk|late|back)\b|^\W*(?:deploying|deployed|releasing|released"
    r"|deploy)\b",
    re.I,
)
WANTS_NUMBER = re.compile(
    r"\b(?:when|what time|how (?:many|much|long|often|big|large|old|far)|which (?:version|port|day|date))\b", re.I
)
YES_NO = re.compile(r"^\W*(?:yes|yep|yup|yeah|no|nope|not yet|correct|right|exactly|sure|nah)\b", re.I)
EMOJI = re.compile(
    r":[a-z0-9_+'-]+(?:::skin-tone-\d)?:|[\U0001F000-\U0001FAFF\u2600-\u27BF\u2B50\u2B1B\u2B1C\uFE0F\u200D]"
)
CLOSING = re.compile(
    r"\b(?:is there|was there|anything) (?:anything )?else (?:i|we|you)|"
    r"\b(?:have a (?:great|nice|good|lovely|wonderful)|glad (?:i|we|to|that)|(?:a |my )?pleasure|"
    r"you(?:'re| are) (?:very )?welcome|happy to help|take care|enjoy your)\b",
    re.I,
)
STOP = frozenset(
    """
    about after again also anyone because been before being between can't could does doing don't done down each
    from further have having hello here i'm into it's itself just know like make more most need needs only other
    over please same should some someone such sure than thanks that their them then there these they this those
    through under until used using very want wants were what when where which while will with would you're your
    """.split()  # noqa: SIM905
)


def prose(text: str) -> str:
    """A message without what it quotes, its code and its links: the words its author spoke."""
    return URL.sub(" ", CODE.sub(" ", QUOTED.sub("", text)))


def words_in(text: str) -> list[str]:
    """Its words, in lower case."""
    return WORD.findall(text.lower())


@lru_cache(KEPT)
def content_words(text: str) -> frozenset[str]:
    """The words that say what it is about: four letters or more, no function words, plural's s off."""
    found = (word.strip("'’-") for word in words_in(URL.sub(" ", text)))
    return frozenset(word.removesuffix("s") for word in found if len(word) > 3 and word not in STOP)


@lru_cache(KEPT)
def question_score(text: str) -> float:
    """How much a message asks for: 2 and more is a question or a cry for help. A question mark counts 2, words that
    begin a question 1, words that seek help 1.5; fewer than three words ask for nothing that an answer could say."""
    spoken = EMOJI.sub(" ", prose(text)).strip()
    said = re.split(r"(?<=[.!?…])\s+|\n+", spoken)
    marks = [sentence for sentence in said if re.search(r"\?[\s)\"'”!.…]*$", sentence)]
    asks = any(ASKS.match(sentence.lstrip(" .,;:-…\"'(*")) for sentence in (marks or said))
    score = 2.0 * bool(marks) + (1.0 if marks and asks else 0.0)
    if not marks and any(WH_ASKS.match(sentence.lstrip()) for sentence in said):
        score += 2.0
    score += 1.5 * bool(SEEKS_HELP.search(spoken))
    if not marks and SEEKS_HELP.search(spoken) and (asks or CODE.search(text) or len(words_in(spoken)) >= 8):
        score += 0.5  # "I can't log in since this morning, it says the account is disabled"
    if len(words_in(spoken)) < 3:
        score -= 2.0
    return max(0.0, score)


@lru_cache(KEPT)
def is_thanks(text: str) -> bool:
    """Whether it says above all that something helped: thanks in a short message that asks nothing more."""
    spoken = prose(text)
    return bool(THANKS.search(spoken)) and len(words_in(spoken)) <= 25 and "?" not in spoken and not is_unsolved(text)


@lru_cache(KEPT)
def is_unsolved(text: str) -> bool:
    """Whether it says that what was proposed did not help."""
    return bool(UNSOLVED.search(prose(text)))


def is_closing(text: str) -> bool:
    """Whether it only takes leave: "You're welcome, have a nice day!"."""
    spoken = prose(text)
    return bool(CLOSING.search(spoken)) and len(words_in(spoken)) <= 22


@lru_cache(KEPT)
def chatter(text: str) -> str | None:
    """Why a message can be neither question nor answer, in words; None: it could be."""
    if not text.strip():
        return "no text"
    if not WORD.search(EMOJI.sub(" ", CODE.sub(" x ", text))) and not re.search(r"\d", text):
        return "no words"
    left = EMOJI.sub(" ", QUOTED.sub("", text)).strip()
    if not left:
        return "only a quotation"
    if SMALL_TALK.match(left):
        return "small talk"
    if is_thanks(text) and len(words_in(left)) <= 12:
        return "thanks"
    return None
