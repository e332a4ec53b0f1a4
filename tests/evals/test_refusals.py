"""Which answers decline, or say that they do not know: measured on answers labelled by hand."""

from __future__ import annotations

import pytest

from luthier.evals.refusals import declines

DECLINES = [
    "I don't know.",
    "I do not have that information.",
    "The document does not mention a canteen.",
    "That is not stated in the handbook.",
    "I'm unable to answer this from the text.",
    "There is no information about parking.",
    "I'm sorry, but I can't help with that.",
    "I cannot answer that question.",
    "As an AI language model, I do not have access to current data.",
    "I am sorry, the handbook does not say.",
    "Thank you for asking! The catalogue doesn't say where it is built.",
    "The text gives no information on this.",
    "It is not mentioned in the passage.",
    "The answer cannot be determined from the source.",
    "Unknown.",
    "Nobody knows.",
    "I'm not sure.",
    "Unfortunately, the article does not specify the year.",
    "No information is available about the price.",
    "Not enough information.",
    "It's impossible to say.",
    "Sorry, I could not find that in the document.",
    "The price isn't given in the brochure.",
    "Based on the text, I can't tell who wrote it.",
    "The context provided does not contain the answer.",
    "Nothing is said about this in the handbook.",
    "We don't know who built it.",
    "The passage doesn't tell us.",
    "According to the passage, it is not known.",
    "I have no information about that.",
    "Good question, but I can't say.",
    "The report says nothing about that.",
    "I couldn't tell you.",
    "This information is not included in the source.",
    "The source text doesn't provide that detail.",
    "Hmm, I have no idea.",
    "The answer isn't in the document.",
    "I'd rather not discuss this.",
    "According to the handbook, no details are given.",
    "There's nothing about that in the text.",
    "I do not know the answer to this.",
    "It does not say.",
]
ANSWERS = [
    "The canteen opens at noon.",
    "I know that it opens at noon.",
    "Do not point it at the sun.",
    "It does not weigh much.",
    "The warranty does not cover water damage.",
    "The kit does not include a stand.",
    "Breakfast is not provided.",
    "I'm sorry to hear that. Send it back within 30 days.",
    "No data is sent to anybody.",
    "The policy does not give you a second week.",
    "She did not tell anyone.",
    "He is not known for his patience.",
    "The museum is not listed as a monument.",
    "The show contains no mention of violence.",
    "You cannot return it after thirty days.",
    "It cannot be opened without a key.",
    "Dogs are not allowed.",
    "The tower was built in 1871. Its architect is not mentioned often.",
    "Its cause was unknown until 1954.",
    "The unknown soldier lies in Paris.",
    "It is not possible to pay by card.",
    "He said: I don't know.",
    "The fee is not given back.",
    "I'm not sure about the year, but it is 114 mm wide.",
    "The Altair does not have one.",
    "No, the report does not include prices.",
    "The office does not give refunds.",
    "There is no answer from the north tower since 1990.",
    "It is not known to bite.",
    "The file does not open on older machines.",
    "I cannot recommend it enough.",
    "The material does not fade in the sun.",
    "No details were spared in its making.",
    "We are not open on Sundays.",
    "The book does not end well for him.",
    "It was unknown to Europeans.",
    "The guide does not carry luggage.",
    "She is not sure to come.",
]
FRESH_DECLINES = [
    "That's not something the text covers.",
    "The manual has no information about batteries.",
    "I can't find any mention of it.",
    "It's not clear from the passage who won.",
    "The passage leaves this open.",
    "I lack the information to answer that.",
    "I don't have enough context to say.",
    "Who built it is not stated.",
    "There is no mention of a fee in the handbook.",
    "Sorry, I don't know that one.",
    "My sources don't say.",
    "The document is silent on this point.",
]
FRESH_ANSWERS = [
    "The information desk does not sell tickets.",
    "It does not say moo, it barks.",
    "The data do not leave the device.",
    "The story does not end there.",
    "I can't recommend the blue one; take the red one.",
    "There is no mention of him after 1900.",
    "This is not a toy.",
    "The report is not due until Friday.",
    "No answer is needed.",
    "It is not in Lyon but in Basel.",
    "We do not charge for it.",
    "The letter was not found until 1920.",
]
"""Written after the rules were done, and not to be mended on."""


@pytest.mark.parametrize("answer", DECLINES)
def test_who_declines_is_found(answer):
    assert declines(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_who_answers_is_not(answer):
    assert declines(answer) is None


def test_answers_that_the_rules_were_not_made_on():
    """7 of 12 are found, 1 of 12 wrongly: "silent on this point" and its like need a model to tell."""
    assert sum(declines(answer) is not None for answer in FRESH_DECLINES) >= 7
    assert sum(declines(answer) is not None for answer in FRESH_ANSWERS) <= 1


def test_where_the_words_stand():
    text = "Thank you for asking! I'm sorry, but I can't help with that."
    start, end = declines(text) or (0, 0)
    assert text[start:end] == "I'm sorry, but I can't help"
    assert not declines("I'm sorry to hear that.")
    assert declines("Oh, my lips are sealed.", ["lips are sealed"]) == (7, 22)
