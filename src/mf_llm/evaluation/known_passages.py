"""Passages that stand all over the web: what the memorisation probe shows of texts a backbone has surely read."""

from __future__ import annotations

from mf_llm.events.event import Event, Turn

YARDSTICK = "known passages"

# In the public domain, or made to be copied (licences, declarations).
_PASSAGES = (
    "Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in Liberty, "
    "and dedicated to the proposition that all men are created equal.",
    "We hold these truths to be self-evident, that all men are created equal, that they are endowed by their Creator "
    "with certain unalienable Rights, that among these are Life, Liberty and the pursuit of Happiness.",
    "We the People of the United States, in Order to form a more perfect Union, establish Justice, insure domestic "
    "Tranquility, provide for the common defence, promote the general Welfare, and secure the Blessings of Liberty",
    "Congress shall make no law respecting an establishment of religion, or prohibiting the free exercise thereof; or "
    "abridging the freedom of speech, or of the press; or the right of the people peaceably to assemble",
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and "
    "should act towards one another in a spirit of brotherhood.",
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness "
    "was upon the face of the deep. And the Spirit of God moved upon the face of the waters.",
    "The Lord is my shepherd; I shall not want. He maketh me to lie down in green pastures: he leadeth me beside the "
    "still waters. He restoreth my soul",
    "Our Father which art in heaven, Hallowed be thy name. Thy kingdom come. Thy will be done in earth, as it is in "
    "heaven. Give us this day our daily bread. And forgive us our debts, as we forgive our debtors.",
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife.",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light",
    "To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer the slings and arrows of "
    "outrageous fortune, or to take arms against a sea of troubles",
    "Shall I compare thee to a summer's day? Thou art more lovely and more temperate: Rough winds do shake the "
    "darling buds of May, And summer's lease hath all too short a date",
    "Once upon a midnight dreary, while I pondered, weak and weary, Over many a quaint and curious volume of "
    "forgotten lore, While I nodded, nearly napping, suddenly there came a tapping",
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    'documentation files (the "Software"), to deal in the Software without restriction, including without limitation '
    "the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software",
    "This program is free software: you can redistribute it and/or modify it under the terms of the GNU General "
    "Public License as published by the Free Software Foundation, either version 3 of the License, or (at your "
    "option) any later version.",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore "
    "magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo",
)


def known_passages() -> list[Event]:
    """Each passage as an event of one turn, without a split."""
    return [
        Event(event_id=f"passage {number}", topic=YARDSTICK, turns=(Turn(action=passage),))
        for number, passage in enumerate(_PASSAGES, 1)
    ]
