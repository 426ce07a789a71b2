"""What a prompt is given: facts and names that the text speaks of, within the limits, the same for the same seed."""

from ecr_ray.data.knowledge import Fact, Film, Knowledge
from ecr_ray.data.retrieval import Limits, Linker, Retriever
from ecr_ray.data.reviews import Review

NAMES = ["Michael Mann", "Al Pacino", "Robert De Niro", "Val Kilmer", "Jon Voight"]
HEAT = Film(
    "1", "Heat", 1995, tuple(Fact("Heat", "director" if n == 0 else "star", name) for n, name in enumerate(NAMES))
)
# In no fact of Heat, so a related name and not a fact.
OTHER = Film("2", "Alien", 1979, tuple(Fact("Alien", "star", name) for name in ("Sigourney Weaver", "Ash")))
FILMS = Knowledge([HEAT, OTHER])


def reviews(*texts, movie="Heat (1995)"):
    return [Review(movie, "t", text, 10) for text in texts]


def test_the_linker_takes_whole_words_whatever_their_case_the_longest_first():
    linker = Linker(["Al", "Al Pacino", "Heat"])
    assert linker.find("AL PACINO and al, preheat the Heat: Al-Pacino") == ["Al Pacino", "Al", "Heat", "Al Pacino"]
    assert linker.find("") == []


def test_for_a_review_what_its_text_speaks_of():
    texts = reviews("I thank Val Kilmer and Sigourney Weaver.", "Sigourney Weaver, Sigourney Weaver!")
    found = Retriever(FILMS, texts, Limits(min_count=1), seed=0).for_review(texts[0], HEAT)
    assert [fact.name for fact in found.facts] == ["Val Kilmer"]
    assert found.entities == ("Sigourney Weaver",)


def test_not_more_than_the_limits_and_the_same_for_the_same_seed():
    everybody = reviews(" and ".join(NAMES))
    found = Retriever(FILMS, everybody, Limits(triples=2), seed=0).for_review(everybody[0], HEAT)
    assert len(found.facts) == 2
    again = Retriever(FILMS, everybody, Limits(triples=2), seed=0).for_review(everybody[0], HEAT)
    assert again == found
    drawn = {Retriever(FILMS, [], Limits(triples=2), seed=seed).for_film(HEAT).facts for seed in range(30)}
    assert len(drawn) > 3
    keys = {Retriever(FILMS, [], Limits(triples=2), seed=0).for_film(HEAT, str(key)).facts for key in range(30)}
    assert len(keys) > 3


def test_a_related_name_is_frequent_not_everywhere_and_not_short():
    texts = reviews("Sigourney Weaver", "Sigourney Weaver", "Ash", "Ash")

    def related(**limits):
        return Retriever(FILMS, texts, Limits(**limits), seed=0).for_film(HEAT).entities

    assert related(min_count=2) == ("Sigourney Weaver",)
    assert related(min_count=3) == ()
    assert related(min_count=2, min_letters=3) == ("Ash", "Sigourney Weaver")
    assert related(min_count=2, max_films=0) == ()


def test_where_no_name_is_frequent_for_a_film_the_most_frequent_stands_in():
    texts = [*reviews("Sigourney Weaver"), *reviews("Val Kilmer", "Val Kilmer", movie="Alien (1979)")]
    retriever = Retriever(FILMS, texts, Limits(min_count=1, min_per_film=2), seed=0)
    assert retriever.for_film(HEAT).entities == ("Sigourney Weaver",)
    assert retriever.for_film(OTHER).entities == ("Val Kilmer",)


def test_a_name_that_is_a_fact_of_the_film_is_not_a_related_one_too():
    texts = reviews("Val Kilmer", "Val Kilmer")
    assert Retriever(FILMS, texts, Limits(min_count=1), seed=0).for_film(HEAT).entities == ()
