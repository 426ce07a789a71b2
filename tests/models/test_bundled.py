"""The trained models in the package: small, safe, loadable, and with cards that say what was measured."""

import json

import pytest

from ecr_ray import storage
from ecr_ray.models import cards, recipe, tiny
from ecr_ray.models.measure import RECORD

BUNDLED = [name for name in tiny.BUNDLED if (tiny.HERE / name).is_dir()]
ADAPTERS = [name for name in tiny.ADAPTERS if (tiny.HERE / name).is_dir()]
OTHERS = (*tiny.BUNDLED, *tiny.ADAPTERS, "ecr-tiny-emotion", "ecr-tiny-recommender")
CRITICS = [n for n in cards.TEXTS if n not in OTHERS and (tiny.HERE / n).is_dir()]


def size(*names):
    return sum(path.stat().st_size for name in names for path in (tiny.HERE / name).rglob("*") if path.is_file())


def test_together_they_are_small_enough_for_git():
    assert size(*BUNDLED) <= 45e6 and size(*CRITICS) <= 50e6 and size(*ADAPTERS) <= 20e6


@pytest.mark.parametrize("name", BUNDLED)
def test_it_is_safetensors_of_sixteen_bits_with_the_common_tokenizer(name):
    from safetensors import safe_open

    directory = tiny.HERE / name
    assert not [path for path in directory.iterdir() if path.suffix in {".bin", ".pt", ".pth"}]
    with safe_open(directory / "model.safetensors", "pt") as weights:
        assert {str(weights.get_tensor(key).dtype) for key in weights.keys()} == {"torch.float16"}  # noqa: SIM118
    # The vocabulary and merges; beside them stands the padding that the trainer uses.
    own, common = (json.loads((d / "tokenizer.json").read_text())["model"] for d in (directory, tiny.TOKENIZER))
    assert own == common


@pytest.mark.parametrize("name", BUNDLED)
def test_transformers_loads_it_whole_by_its_name(name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = tiny.resolve_model(name)
    model, info = AutoModelForCausalLM.from_pretrained(where, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.pad_token_id != model.config.eos_token_id
    assert AutoTokenizer.from_pretrained(where).chat_template == tiny.CHAT_TEMPLATE
    assert not tiny.is_untrained(where)


@pytest.mark.parametrize("name", BUNDLED)
def test_its_card_says_what_its_records_say(name):
    directory = tiny.HERE / name
    assert (directory / "README.md").read_text(encoding="utf-8") == cards.card(name, directory)
    measured = json.loads((directory / RECORD).read_text())
    assert measured["weights"] == storage.digest(directory / "model.safetensors")["sha256"]
    run = json.loads((directory / "run.json").read_text())
    assert run["stage"] == "sft" and run["config"]["save_dtype"] == "float16"


@pytest.mark.parametrize("name", CRITICS)
def test_a_critic_is_loaded_by_its_name_and_tells_turns_apart(name):
    from ecr_ray.encoders import predict

    critic = predict.Local(name)
    asked = [{"role": "seeker", "text": "Can you recommend a good comedy?"}]
    found = critic.predict([asked, asked], ["Have you seen Airplane! (1980)? It is hilarious!", "no"])
    assert abs(found.mean_NK[0] - found.mean_NK[1]).max() > 0.02 and (found.std_NK > 0).all()
    run = json.loads((tiny.HERE / name / "run.json").read_text())
    assert run["stage"] == "critic" and tuple(run["heads"]) == critic.shape.heads
    weights = storage.digest(tiny.HERE / name / "model.safetensors")["sha256"]
    assert weights in [file["sha256"] for file in run["model"]]
    assert (tiny.HERE / name / "README.md").read_text(encoding="utf-8") == cards.card(name, tiny.HERE / name)


def test_the_emotion_classifier_reads_plain_feelings_and_its_card_says_what_its_record_says():
    from ecr_ray.encoders import predict
    from ecr_ray.records import EMOTIONS

    directory = tiny.HERE / "ecr-tiny-emotion"
    assert size("ecr-tiny-emotion") <= 5e6
    said = {
        "Thank you so much, that is very kind": "grateful",
        "I love that movie!": "like",
        "What is it about? Who is in it?": "curious",
        "That was awful, I hated every minute": "negative",
        "Haha that is so funny, great fun": "happy",
        "Wow, I did not expect that!": "surprise",
        "I watched it with my grandpa when I was little, such sweet memories": "nostalgia",
    }
    local = predict.Local("ecr-tiny-emotion")
    found = local.predict_ids(local.reader.encode_alone(list(said))).mean_NK
    assert [EMOTIONS[k] for k in found.argmax(1)] == list(said.values())
    run = json.loads((directory / "run.json").read_text())
    assert run["stage"] == "emotion" and tuple(run["emotions"]) == local.shape.heads
    weights = storage.digest(directory / "model.safetensors")["sha256"]
    assert weights in [file["sha256"] for file in run["model"]]
    assert (directory / "README.md").read_text(encoding="utf-8") == cards.card("ecr-tiny-emotion", directory)


def test_the_recommender_recommends_sensibly_and_says_why():
    from ecr_ray.recommender.predict import Recommender

    name = "ecr-tiny-recommender"
    directory = tiny.HERE / name
    assert size(name) <= 6e6
    recommender = Recommender(directory)
    genres = {i.item_id: {f.name for f in i.facts if f.relation == "genre"} for i in recommender.catalogue.items}
    for asked, genre in (
        ("I am in the mood for something really scary tonight", "horror"),
        ("Do you know a good cartoon for my kids?", "animation"),
        ("I loved The Matrix (1999), more like that please", "sci-fi"),
    ):
        found = recommender.recommend([{"role": "seeker", "text": asked}], 10)
        of_it = sum(genre in genres[film.item_id] for film in found.films)
        among_all = sum(genre in known for known in genres.values()) / len(genres)
        assert of_it >= 5 and of_it > 2 * 10 * among_all, (asked, of_it, among_all, found)
        assert all(film.reason.text for film in found.films)
    assert "1999" in str(found.films[0].reason.text) or any("Matrix" in film.reason.text for film in found.films)
    run = json.loads((directory / "run.json").read_text())
    assert run["stage"] == "recommender"
    weights = storage.digest(directory / "model.safetensors")["sha256"]
    assert weights in [file["sha256"] for file in run["model"]]
    assert (directory / "README.md").read_text(encoding="utf-8") == cards.card(name, directory)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_of_the_chat_model_and_changes_it_as_its_card_says(name):
    from ecr_ray.models import ppo_measures
    from ecr_ray.policy import weights

    directory = tiny.HERE / name
    assert (directory / "README.md").read_text(encoding="utf-8") == cards.card(name, directory)
    assert weights.base_of(name) == "ecr-tiny-chat"
    measured = json.loads((directory / RECORD).read_text())
    adapter = storage.digest(directory / "adapter_model.safetensors")["sha256"]
    assert measured["weights"] == adapter
    assert ppo_measures.weights_differ(directory) == pytest.approx(measured["weights_changed"], rel=1e-3)
    assert measured["weights_changed"] > 1e-3
    run = json.loads((directory / "run.json").read_text())
    assert run["stage"] == "ppo" and adapter in [file["sha256"] for file in run["model"]]
    assert run["result"]["gain"]["opinion"]["low"] > 0 and run["result"]["kl"]["value"] <= 10


@pytest.mark.skipif("ecr-tiny-chat" not in BUNDLED, reason="the chat model is not in the package")
def test_the_chat_model_answers_a_greeting_and_stops():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ecr_ray import prompts

    where = tiny.resolve_model("ecr-tiny-chat")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(where),
        AutoModelForCausalLM.from_pretrained(where, dtype="float32"),
    )
    chat = prompts.policy_messages([{"role": "seeker", "text": "Hi! I am looking for a good comedy."}])
    ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)["input_ids"]
    with torch.inference_mode():
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=80, do_sample=False)[
            0, ids.shape[1] :
        ]
    assert answer[-1] == tokenizer.eos_token_id
    assert len(tokenizer.decode(answer, skip_special_tokens=True).split()) >= 2


@pytest.mark.parametrize("model", list(recipe.STEPS))
def test_the_recipes_commands_are_commands_of_the_job(model):
    from ecr_ray import config

    stages = {
        "jobs/sft.py": (config.SftConfig, "sft"),
        "jobs/score.py": (config.ScoreConfig, "score"),
        "jobs/train_critic.py": (config.CriticConfig, "critic"),
        "jobs/ppo.py": (config.PpoConfig, "ppo"),
        "jobs/train_emotion.py": (config.EmotionConfig, "emotion"),
        "jobs/annotate.py": (config.AnnotateConfig, "annotate"),
        "jobs/train_recommender.py": (config.RecommenderConfig, "recommender"),
    }
    for words in recipe.commands(model):
        settings = config.load(*stages[words[0]], words[1:])
        assert settings.profile == "tiny"
    if words[0] == "jobs/sft.py":
        assert settings.save_every % settings.eval_every == 0
    if words[0] in ("jobs/sft.py", "jobs/ppo.py"):
        assert settings.save_dtype == "float16"
