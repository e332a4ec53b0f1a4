"""A rater that stands in for people in the recipes: it likes answers that end, and that do not go on for long."""


def short_and_whole(messages, answer):
    """Points for a full stop at the end, less for every word beyond ten and for words said twice."""
    words = answer.lower().split()
    return answer.endswith(".") - 0.1 * max(0, len(words) - 10) - 0.1 * (len(words) - len(set(words)))
