"""Films that do not exist do not leave the house."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.data.titles import Titles
from ecr_ray.serving.titles import NOTHING_BETTER, Guard

KNOWN = Titles(["Heat (1995)", "The Matrix (1999)", "Up (2009)", "It's a Wonderful Life (1946)", "2012 (2009)"])
INSTEAD = ("Up (2009)", "Heat (1995)")


def guarded(text, said=(), instead=INSTEAD):
    guard = Guard(KNOWN, said, instead)
    return guard.feed(text) + guard.finish()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Have you seen The Matrix (1999)?", "Have you seen The Matrix (1999)?"),
        ("I like the matrix (1999) a lot.", "I like the matrix (1999) a lot."),
        ("Have you seen Big Foo (2001)?", "Have you seen Up (2009)?"),
        ("Try The Lord of the Foo (2001) and Bar (2002)!", "Try Up (2009) and Heat (1995)!"),
        ("Big Foo (2001) is fun. Big Foo (2001) rocks.", "Big Up (2009) is fun. Big Up (2009) rocks."),
        ("Try Foo (2001), Bar (2002), Baz (2003)", "Try Up (2009), Heat (1995), another film"),
        ("Up (2009) or Foo (2001)?", "Up (2009) or Heat (1995)?"),
        ("so good(2001) yes", "so good 2001 yes"),
        ("in (1990) nothing", "in 1990 nothing"),
        ("I saw 2012 (2009).", "I saw 2012 (2009)."),
        ("It's a Wonderful Life (1946)", "It's a Wonderful Life (1946)"),
        ("no films here, Sir.", "no films here, Sir."),
        ("(19", "(19"),
        ('I love "The Matrix" so much', 'I love "The Matrix" so much'),
        ('I love "the Big Foo" so much', 'I love "the Big Foo" so much'),
        ('I love "The Big Foo," so much', "I love Up (2009) so much"),
        ("Have you seen “Attack of the Foo”?", "Have you seen Up (2009)?"),
        ('"Big Foo (2001)" it is', '"Up (2009)" it is'),
        ('"Big Foo" (2001) it is', "Up (2009) it is"),
        ('Try "Big Foo" (2001), or "Bar Foo (2002)"', 'Try Up (2009), or "Heat (1995)"'),
        ('They said "Yes" and left', 'They said "Yes" and left'),
    ],
)
def test_by_hand(written, shown):
    assert guarded(written) == shown


def test_what_the_seeker_named_may_be_named():
    assert guarded("I love Foo Bar (2001)!", ["have you heard of foo bar?"]) == "I love Foo Bar (2001)!"
    assert guarded('I love "Foo Bar"!', ["have you heard of foo bar?"]) == 'I love "Foo Bar"!'
    assert guarded("I love Foo Bar (2001)!", ["Foo Bar (2001)"]) == "I love Foo Bar (2001)!"


def test_without_anything_better_it_says_so():
    assert guarded("Try Foo (2001).", instead=()) == f"Try {NOTHING_BETTER}."


def test_it_tells_what_it_replaced():
    guard = Guard(KNOWN, (), INSTEAD)
    guard.feed("Try Big Foo (2001)")
    guard.finish()
    assert guard.replaced == {"Big Foo (2001)": "Up (2009)"}


def test_what_cannot_be_a_title_is_shown_at_once():
    guard = Guard(KNOWN, (), INSTEAD)
    assert guard.feed("I thi") == ""
    assert guard.feed("nk that ") == "I think that"
    assert guard.feed("The Mat") == " "
    assert guard.feed("rix (19") == ""
    assert guard.feed("99) is") == "The Matrix (1999) is"
    assert guard.finish() == ""


PIECES = st.lists(
    st.sampled_from(
        [
            "The ",
            "Matrix ",
            "(1999)",
            "Foo ",
            "of ",
            "the ",
            "good",
            " ",
            ". ",
            "(20",
            "01)",
            "Up",
            "\n",
            "2012",
            "(",
            "é",
            '"',
            "“",
            "”",
        ]
    ),
    max_size=25,
)


@given(PIECES, st.randoms())
def test_cut_anyhow_it_invents_nothing(pieces, random):
    text = "".join(pieces)
    guard, shown, at = Guard(KNOWN, (), INSTEAD), "", 0
    while at < len(text):
        step = random.randint(1, 7)
        shown += guard.feed(text[at : at + step])
        at += step
    shown += guard.finish()
    assert shown == guard.text
    assert KNOWN.invented(shown, ()) == []
    if not KNOWN.named(text) and not set(text) & set('"“”'):
        assert shown == text


@given(PIECES)
def test_in_a_hurry_it_invents_nothing_either(pieces):
    guard = Guard(KNOWN, (), INSTEAD, quick=True)
    shown = "".join(map(guard.feed, pieces)) + guard.finish()
    assert KNOWN.invented(shown, ()) == []


def test_in_a_hurry_the_first_word_is_shown_at_once():
    guard = Guard(KNOWN, (), INSTEAD, quick=True)
    assert [guard.feed(piece) for piece in (" The", " Mat", "rix", " (1999)", " Iron", " Foo", " (2001)")] == [
        " The",
        " ",
        "",
        "Matrix (1999)",
        " ",
        "",
        "Up (2009)",
    ]


@given(st.text(alphabet="abc DEF.,", max_size=80))
def test_text_without_years_is_as_it_was(text):
    assert guarded(text) == text
