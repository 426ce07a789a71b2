"""A reward function that gives no numbers."""


def nan(dialogues, responses):
    return [float("nan")] * len(responses)
