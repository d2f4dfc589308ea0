"""Every kind of broken file gives one clear line that names file, line and field."""

from __future__ import annotations

import pytest
from broken_files import BROKEN_FILES, BrokenFile

from mf_llm.errors import EventError
from mf_llm.events import load_event_sets, load_events


@pytest.mark.parametrize("broken", BROKEN_FILES, ids=lambda broken: broken.name)
def test_broken_file_is_explained_in_one_line(broken: BrokenFile, tmp_path):
    path = broken.place(tmp_path)
    with pytest.raises(EventError) as caught:
        load_events(path)
    message = str(caught.value)
    assert broken.file in message
    assert broken.says in message
    assert "\n" not in message and message.isprintable()
    assert len(message) < 700
    if broken.line is not None:
        assert f", line {broken.line}" in message
        assert caught.value.line == broken.line
    if broken.field is not None:
        assert f"field `{broken.field}`" in message
    assert caught.value.field == broken.field
    # Nothing of the machinery below may show in a traceback.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(EventError):
        load_event_sets(str(path))


def test_there_are_many_kinds_and_their_names_differ():
    names = [broken.name for broken in BROKEN_FILES]
    assert len(names) == len(set(names))
    assert len(names) >= 40
