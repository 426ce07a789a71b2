"""What the endpoint takes and gives, with examples; the OpenAPI document is made of these.

How long texts may be is a setting (ServeConfig) and checked where a request is answered; what stands here holds always.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MOST_ANSWERS, MOST_FILMS, MOST_EXCLUDED, MOST_TOKENS = 16, 50, 200, 1024
Text = Annotated[str, StringConstraints(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _example(**fields: Any) -> ConfigDict:
    """Of a request: nothing that it does not know, and what one looks like."""
    return ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [fields]})


class _Strict(BaseModel):
    # A field that is misspelt would silently do nothing.
    model_config = ConfigDict(extra="forbid", strict=True)


class Message(_Strict):
    """One message of a dialogue."""

    role: Literal["user", "assistant", "seeker", "recommender"] = Field(
        description="`user` and `seeker` are one, and so are `assistant` and `recommender`."
    )
    content: Text


class RecommendRequest(_Strict):
    """A dialogue that waits for the recommender's answer."""

    model_config = _example(
        messages=[{"role": "user", "content": "Hi! I loved John Wick (2014), so much fun. Another like it?"}], k=3, n=2
    )
    messages: list[Message] = Field(min_length=1, description="The oldest first; the last one is the user's.")
    user: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="Comes back with the answer; nothing is stored under it."
    )
    k: int = Field(5, ge=1, le=MOST_FILMS, description="Films to recommend.")
    exclude: list[str] = Field(default=[], max_length=MOST_EXCLUDED, description="Ids of films not to recommend again.")
    n: int = Field(1, ge=1, le=MOST_ANSWERS, description="Answers to write; the critic's favourite is given.")
    temperature: float | None = Field(None, ge=0, le=2, description="By default the endpoint's.")
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS, description="By default the endpoint's.")
    seed: Seed | None = None
    adapter: str | None = Field(None, description="A model id of GET /v1/models; by default whatever is live.")
    stream: bool = Field(False, description="Server-sent events: `read`, `text` (many), `done`; or `error`.")


class Film(BaseModel):
    """A film that is recommended."""

    id: str
    title: str
    year: int | None
    score: float = Field(description="Its probability among all films that could be recommended.")
    reason: str


class Emotion(BaseModel):
    """A feeling in the user's last message."""

    label: str
    prob: float


class ModelUsed(BaseModel):
    """Which weights wrote the answer."""

    base: str
    adapter: str | None
    version: str = Field(description="The model id by which exactly these weights can be asked for.")


class Usage(BaseModel):
    """Tokens, over all answers that were written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage(prompt: int, written: int) -> dict[str, int]:
    """Tokens read and written, as OpenAI's API counts them."""
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


class RecommendResponse(BaseModel):
    """An answer, and what it rests on."""

    id: str
    user: str | None
    reply: str
    reply_from: Literal["policy", "recommendation"] = Field(
        description="`recommendation`: the critic rated every answer below the floor, and this one is made of the film."
    )
    finish_reason: Literal["stop", "length"]
    recommendations: list[Film]
    emotions: list[Emotion]
    mentioned: list[str] = Field(description="Ids of the films that were found in the dialogue.")
    note: str = Field(description="What the recommender had to do without; empty: nothing.")
    scores: dict[str, float] | None = Field(description="The critic's ratings of the reply, 0 to 1; null: no critic.")
    replaced: dict[str, str] = Field(description="Films that the policy invented → what stands in the reply instead.")
    model: ModelUsed
    usage: Usage
    timings_ms: dict[str, float]


class Part(_Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Strict):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(min_length=1)]
    name: str | None = None

    @property
    def text(self) -> str:
        """Its parts, joined."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(_Strict):
    """What a stream ends with."""

    include_usage: bool = False


class ChatRequest(_Strict):
    """As OpenAI's chat completions, as far as it goes: what is not here cannot be asked for."""

    model_config = _example(
        model="ecr-tiny-ppo", messages=[{"role": "user", "content": "Something funny for tonight?"}], max_tokens=32
    )
    model: str = Field(description="A model id of GET /v1/models.")
    messages: list[ChatMessage] = Field(min_length=1)
    n: int = Field(1, ge=1, le=MOST_ANSWERS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    seed: Seed | None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None


class AdapterRequest(_Strict):
    """A new version of the policy."""

    model_config = _example(name="run-7")
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(
        description="A directory below the endpoint's adapters/: a PEFT adapter, or a checkpoint of jobs/ppo.py."
    )
    digest: str | None = Field(None, description="SHA-256 that its files must have, as GET /v1/adapters gives it.")


class VersionRequest(_Strict):
    """Which version a step is about."""

    version: str | None = Field(None, description="promote: by default the one on trial.")
    reason: Annotated[str, StringConstraints(max_length=200)] = "asked for"


class AdapterVersion(BaseModel):
    """A version of the policy, and why it is where it is."""

    id: str
    name: str
    digest: str
    status: Literal["ready", "canary", "live", "retired", "rejected"]
    reason: str
    since: str


class Adapters(BaseModel):
    """Which versions there are."""

    live: str
    canary: str | None
    share: float
    versions: list[AdapterVersion]


class FeedbackMessage(Message):
    """A message of the dialogue that a thumb is about."""

    recommended: list[str] = Field(default=[], max_length=MOST_FILMS, description="Ids of films shown with it.")


class FeedbackRequest(_Strict):
    """A thumb up or down, for a film that was recommended or for the reply."""

    model_config = _example(
        conversation="3f1c5a9e",
        answer="rec-1",
        messages=[
            {"role": "user", "content": "Something funny?"},
            {"role": "assistant", "content": "How about this one?", "recommended": ["1"]},
        ],
        film="1",
        liked=True,
    )
    conversation: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{4,64}$")]
    answer: Annotated[str, StringConstraints(max_length=64)]
    messages: list[FeedbackMessage] = Field(min_length=1)
    film: str | None = Field(None, description="One that was recommended; null: the thumb is about the reply.")
    liked: bool


class Stored(BaseModel):
    """It was stored."""

    stored: Literal[True] = True


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str
    message: str
    type: str
    param: str | None = None


class ErrorResponse(BaseModel):
    """Every error has this form."""

    error: ErrorBody


class ModelCard(BaseModel):
    """A model id that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ecr_ray"


class Models(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ChatCompletion(BaseModel):
    """As OpenAI's."""

    model_config = ConfigDict(extra="allow")
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage
