"""Other words for the same prompts, to see how far a result depends on them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mf_llm.models.encoding import one_line
from mf_llm.models.prompts import MEAN_FIELD_INSTRUCTION, POLICY_INSTRUCTION, SUMMARISE


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The fixed words of the prompts of both roles; what an answer looks like is always the same.

    Attributes:
        policy, mean_field: the instructions.
        topic, signal, person: headings of a policy prompt.
        previous, actions: headings of a mean-field prompt.
        task: what the mean-field model is asked for at the end of its prompt.
        before_topic: words put in front of every topic.
        bare_topic: hash signs, @-names and links are taken out of topics.
    """

    policy: str = POLICY_INSTRUCTION
    mean_field: str = MEAN_FIELD_INSTRUCTION
    topic: str = "Topic:"
    signal: str = "What people say so far:"
    person: str = "You are:"
    previous: str = "Summary so far:"
    actions: str = "What people say now:"
    task: str = SUMMARISE
    before_topic: str = ""
    bare_topic: bool = False

    def topic_text(self, topic: str) -> str:
        """The topic on one line, as this wording tells it."""
        bare = re.sub(r"https?://\S+|<url>|@\w+|@", " ", topic.replace("#", "")) if self.bare_topic else ""
        # A topic of nothing but names and links still has to stand for something: it stays.
        return self.before_topic + one_line(" ".join(bare.split()) or topic)


# The first is what models are trained with.
WORDINGS = (
    Wording(),
    Wording(
        policy="You play one person out of many. Say how this person would respond to what is going on.",
        mean_field="You describe public opinion. You stick to what you are told.",
        topic="What is going on:",
        signal="How others have responded:",
        person="The person is:",
        previous="Public opinion before:",
        actions="New responses:",
        task="In two short sentences, describe what the public thinks of this and where opinion is heading.",
        before_topic="Many people are talking about this: ",
    ),
    Wording(
        policy="Answer as the individual described below would answer.",
        mean_field="Report on a crowd. Add nothing of your own.",
        topic="Subject:",
        signal="The crowd until now:",
        person="Individual:",
        previous="Last report:",
        actions="Since then:",
        task="Write a report of two short sentences: the crowd's view of the subject, and how it is changing.",
        bare_topic=True,
    ),
)
