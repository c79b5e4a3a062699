"""Types of requests and responses, generated from the OpenAPI document (`make docs`)."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict


class ArtefactLimitsOutput(TypedDict):
    """
    Limits of the artefact guard: a minimum of contrast, and maxima.

    null is not checked.
    """

    contrast: float
    saturation: float | None
    noise: float | None
    tiling: float | None


Value: TypeAlias = str


class AttributeInput(TypedDict):
    """
    What is asked of every image: texts of which one should fit it.
    """

    name: str
    """
    Name of the attribute, for you.
    """
    values: list[Value]
    """
    Texts of which one fits an image, such as `a photo of a red car`.
    """


Prompt: TypeAlias = str


class AutoVariants(TypedDict):
    """
    Wordings that the server makes, the prompt itself among them.
    """

    auto: int
    """
    Number of wordings, with the prompt as the first.
    """


class BalanceInput(TypedDict):
    """
    Shares of the returned images by the values of an attribute.
    """

    attribute: str
    """
    Name of the attribute, for you.
    """
    values: dict[str, float]
    """
    Share of each value, a text of which one fits an image; they sum to 1.
    """


class BatchCountsOutput(TypedDict):
    """
    Entries by state.

    `refused` ones were invalid; `deleted` ones were deleted as generations.
    """

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    refused: int
    deleted: int


class BatchSummary(TypedDict):
    """
    A batch without its entries.

    `failed` means that no entry succeeded. `progress` is the share of entries that have ended.
    """

    id: str
    object: Literal["batch"]
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created: int
    finished: float | None
    progress: float
    counts: BatchCountsOutput


class CheckpointInput(TypedDict):
    """
    After step `at` of those that run, only the best `keep` candidates continue.
    """

    at: int
    keep: NotRequired[int | None]


class ControlInput(TypedDict):
    """
    An image that the composition follows, such as a sketch, edges or depths.
    """

    kind: str
    """
    A kind of the model; GET /v1/models lists them.
    """
    image: str
    """
    The image, as a data: URI or bare base64; cropped and scaled.
    """
    weight: NotRequired[float]
    """
    0 has no effect.
    """


class ControlOutput(TypedDict):
    """
    A control image that was used.
    """

    kind: str
    weight: float


class DifferenceOutput(TypedDict):
    """
    Share of winners less share of candidates.

    With a 95 % bootstrap interval over generations.

    `low` and `high` are null with fewer than eight generations.
    """

    share: float | None
    low: float | None
    high: float | None


class DocumentOutput(TypedDict):
    """
    A document of the request; exactly one member is present.
    """

    text: NotRequired[str]
    image: NotRequired[str]


class EmbeddingOutput(TypedDict):
    """
    One vector, L2-normalised.
    """

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """
    Token usage, which clients expect; always 0, since tokens are not metered.
    """

    prompt_tokens: int
    total_tokens: int


class EntryErrorOutput(TypedDict):
    """
    Why an entry was refused; `pointer` is into the batch's body.
    """

    code: str
    message: str
    pointer: str | None


class FailureOutput(TypedDict):
    """
    Why a generation failed.
    """

    code: str
    message: str


Variant: TypeAlias = str


class ImageSummary(TypedDict):
    """
    A returned image of a listed generation.
    """

    rank: int
    index: int
    seed: int
    score: float
    url: str


class InputObject(TypedDict):
    """
    A text or an image.
    """

    text: NotRequired[str | None]
    image: NotRequired[str | None]
    """
    An image, as a data: URI or bare base64.
    """


class LimitsOutput(TypedDict):
    """
    Limits and defaults of requests on this server.
    """

    candidates: int
    default_candidates: int
    steps: int
    guidance_scale: float
    prompt_chars: int
    negatives: int
    images: int
    references: int
    output_side: int
    output_pixels: int
    texts: int
    guards: list[str]
    installed_guards: list[str]


class LoraInput(TypedDict):
    """
    A LoRA adapter and its weight.
    """

    name: str
    """
    Name of an adapter of the server; GET /v1/models lists them.
    """
    weight: NotRequired[float]
    """
    1 as trained, 0 has no effect.
    """


class LoraOutput(TypedDict):
    """
    A LoRA adapter of a generation.
    """

    name: str
    weight: float


class MatchOutput(TypedDict):
    """
    How a cosine becomes the probability that an image shows a text.

    sigmoid(slope * cosine + intercept), where half of all pairs match. `error` is the expected calibration error on
    `pairs` held-out pairs, and `reliability` its table: mean probability, share that matches, weight. `noise` is the
    standard deviation of a cosine over changes that do not change what an image shows.
    """

    slope: float
    intercept: float
    noise: float
    error: float
    pairs: int
    reliability: list[tuple[float, float, float]]


class NegativeInput(TypedDict):
    """
    A text that lowers the score of images that match it.
    """

    text: str
    weight: NotRequired[float]
    """
    Weight relative to the other negatives.
    """


class NegativeOutput(TypedDict):
    """
    A negative and the image's cosine with it.
    """

    text: str
    weight: float
    similarity: float


class OddsOutput(TypedDict):
    """
    What a value does to a candidate's odds to win.

    Only candidates of which a value is certain count.

    `odds` 2 means twice the odds of a candidate with another value; null is undefined or unlimited. `low` and `high`
    are exact at 95 %; a `high` of null is unlimited. `expected` winners have the value without any preference.
    `fields` generations had candidates with and without it. `p_value` is that of the exact two-sided test, `p_adjusted`
    after Holm's correction over all attributes.
    """

    fields: int
    observed: int
    expected: float
    odds: float | None
    low: float
    high: float | None
    p_value: float
    p_adjusted: float


class PanelOutput(TypedDict):
    """
    A scorer and what it is for.

    `role`: the `main` one races and ranks, a `member` ranks in requests that name it, the `referee` never ranks.
    `embeds`: its vectors are stored, so candidates are ranked again by any text. Any other scorer has numbers of one
    text, unless it reads no text (`reads_text`). A `remote` one is asked over a network.
    """

    id: str
    revision: str
    role: Literal["main", "member", "referee"]
    embeds: bool
    remote: bool
    reads_text: bool


class ParentOutput(TypedDict):
    """
    The source of a re-ranked or refined generation.

    `generation` and `index` are null for a refined upload.
    """

    kind: Literal["rerank", "refine"]
    generation: str | None
    index: int | None


class PhraseScoreOutput(TypedDict):
    """
    A phrase, the candidate's cosine with it, and its rank by that cosine.

    The rank is among all candidates. `heat_map` is the path of the heat map.
    """

    text: str
    aspect: Literal["content", "style", "composition"]
    similarity: float
    rank: int
    heat_map: str


class PresetOutput(TypedDict):
    """
    Words to add to a prompt and to a negative prompt.
    """

    group: str
    aspect: Literal["content", "style", "composition"]
    name: str
    prompt: str
    negative: str


class PreviewHeadOutput(TypedDict):
    """
    A small model of embeddings that predicts final scores from previews.

    `used` says after which steps. There its error is lower than the linear fit's, on prompts that were not fitted.
    """

    used: list[bool]
    linear_error: list[float]
    head_error: list[float]


class QualityOutput(TypedDict):
    """
    Candidates and steps of requests that name neither.
    """

    n_candidates: int
    steps: int


class RankingBalance(TypedDict):
    """
    Shares of the returned images by the values of an attribute.
    """

    attribute: str
    values: dict[str, Any]


class RankingNegative(TypedDict):
    """
    A negative of a ranking.
    """

    text: str
    weight: float


class RankingReference(TypedDict):
    """
    A reference of a ranking.

    `generation` and `index` are null for an upload, of which only the embedding is stored.
    """

    generation: str | None
    index: int | None
    weight: float


class RankingScorer(TypedDict):
    """
    A scorer of an ensemble.
    """

    name: str
    weight: float


class RankingTaste(TypedDict):
    """
    A taste of a ranking; it changes a score by at most `bound`.
    """

    profile: str
    weight: float
    bound: float


class ReceiptKeyResponse(TypedDict):
    """
    The key that receipts are signed with, and its certificate chain, in PEM.
    """

    object: Literal["receipt_key"]
    algorithm: str
    public_key: str
    certificate: str


class ReceiptResponse(TypedDict):
    """
    What a ranking was made of, signed.

    `signature`, in base64, is of `claims` in canonical JSON (RFC 8785) by the first key of `certificate`.
    """

    object: Literal["receipt"]
    claims: dict[str, Any]
    algorithm: str
    certificate: str
    signature: str


class RefereeOutput(TypedDict):
    """
    What a scorer that never ranks says of the winner, and of the median finalist.

    On its own scale; higher is better.
    """

    name: str
    winner: float
    median: float


class ReferenceInput(TypedDict):
    """
    An image to resemble, or to avoid with a weight below 0.

    Either an upload (`image`) or a candidate (`generation` and `index`).
    """

    image: NotRequired[str | None]
    """
    An image, as a data: URI or bare base64.
    """
    generation: NotRequired[str | None]
    """
    Id of the candidate's generation.
    """
    index: NotRequired[int | None]
    """
    Index of the candidate.
    """
    weight: NotRequired[float]
    """
    Relative to the prompt, which has weight 1; not 0.
    """


class ReferenceOutput(TypedDict):
    """
    A reference and the image's cosine with it.

    `generation` and `index` are null for an upload.
    """

    generation: str | None
    index: int | None
    weight: float
    similarity: float


class ReplayOutput(TypedDict):
    """
    What pruning plans kept of the best-of-N gain.

    They were replayed on prompts that they were not made from, for the best of `candidates` at `quality`. `kept` is the
    mean share kept, with its standard error `kept_error`. `loss_ratio`, with its standard error, is the real loss
    relative to the modelled one. Plans assume an upper limit of it, between 1 and 3.
    """

    candidates: int
    prompts: int
    quality: float
    kept: float
    kept_error: float
    loss_ratio: float
    loss_ratio_error: float


class RerankResult(TypedDict):
    """
    A document's index in the request, and its cosine with the query, in [-1, 1].
    """

    index: int
    relevance_score: float
    document: NotRequired[DocumentOutput]


class RerankUsage(TypedDict):
    """
    Token usage, which clients expect; always 0, since tokens are not metered.
    """

    prompt_tokens: int
    total_tokens: int


class SafetyInfoOutput(TypedDict):
    """
    The safety classifier, and the mode of requests that name none.

    `classifier` is null if there is none. `revision` and `threshold` are known once it is loaded.
    """

    default: Literal["off", "flag", "veto"]
    classifier: str | None
    revision: str | None
    threshold: float | None


class SafetyOutput(TypedDict):
    """
    What the safety classifier found in an image; it is no guarantee.

    `scores` by name: higher is worse, null is not a number. Without scores the classifier failed. Both count as
    flagged.
    """

    flagged: bool
    scores: dict[str, Any]
    model: str
    revision: str


class ScorerInput(TypedDict):
    """
    A scorer of an ensemble.
    """

    name: str
    """
    Id of a loaded scorer; GET /v1/models lists them.
    """
    weight: NotRequired[float]
    """
    Relative to the other scorers; 0 has no effect.
    """


class ScorerOutput(TypedDict):
    """
    A scorer.

    `null_mean`, `null_std`: cosines of images with unrelated texts; null if not measured. `logit_bias`: of models
    trained with a sigmoid, where sigmoid(logit_scale * cosine + logit_bias) is the probability of a match; else null.
    """

    revision: str
    dimensions: int
    image_size: int
    token_limit: int
    logit_scale: float
    device: str
    null_mean: float | None
    null_std: float | None
    logit_bias: float | None


class ServingOutput(TypedDict):
    """
    How one of several models is served.

    `state`: `loaded`, `loading`, `failed` (`problem` says why), or `waiting` for its first request. A `resident` model
    loads at the start, any other one on demand, until others need its memory. `weight_bytes` is measured when it loads,
    0 until then. `scorer` is the main scorer; null while it is not known. Requests without a model use the `default`.
    `replicas` has the state on every live replica. `here` is false for a model of other replicas only: its requests
    wait in the queue for them, and `state` is the best of theirs.
    """

    state: Literal["loaded", "loading", "failed", "waiting"]
    here: bool
    replicas: dict[str, Any]
    resident: bool
    default: bool
    weight_bytes: int
    scorer: str | None
    problem: str | None


class ShareOutput(TypedDict):
    """
    How many images are of a class: their number, share and 95 % Wilson interval.

    The interval allows for candidates of one prompt that are alike. null if there are no images.
    """

    count: int
    share: float | None
    low: float | None
    high: float | None


class SkippedOutput(TypedDict):
    """
    An image that was omitted: its index in the request, and the error.
    """

    index: int
    code: str
    message: str


Status: TypeAlias = Literal["queued", "running", "succeeded", "failed", "cancelled"]
"""
The status of a generation; the last three are final.
"""


class SteeringInput(TypedDict):
    """
    Moves of candidates along the gradient of their own score.

    The score rises by construction; it is no proof of quality.
    """

    scale: float
    """
    Length of a move relative to the image estimate, at most 0.1; 0 is off.
    """
    start: NotRequired[float]
    """
    Share of the noise schedule's time of the first move.
    """
    end: NotRequired[float]
    """
    Share of the noise schedule's time of the last move.
    """


class SteeringOutput(TypedDict):
    """
    The steering that was used, as in requests.
    """

    scale: float
    start: float
    end: float


class TasteInput(TypedDict):
    """
    A taste profile whose term is added to the score.
    """

    profile: str
    weight: NotRequired[float]
    """
    1 is the maximum influence of a taste.
    """


class TasteProfileListResponse(TypedDict):
    """
    The names of the profiles.
    """

    object: Literal["list"]
    data: list[str]


class TasteProfileResponse(TypedDict):
    """
    A summary of a profile.

    `agreement` is the fraction of votes that the fitted model reproduces. `bound` is the largest change of a score.
    """

    object: Literal["taste"]
    profile: str
    scorer: str
    revision: str
    liked: int
    disliked: int
    preferred: int
    agreement: float
    bound: float


class TimingsOutput(TypedDict):
    """
    Time per phase in milliseconds.
    """

    queue_ms: float
    encode_ms: float
    denoise_ms: float
    preview_ms: float
    finish_ms: float
    guard_ms: float
    total_ms: float


class TokenDetails(TypedDict):
    """
    Tokens by kind; always 0, since tokens are not metered.
    """

    text_tokens: int
    image_tokens: int


class UpscalerOutput(TypedDict):
    """
    An upscaler: it enlarges returned images by `factor`.

    `tile` is the longest side of one call in pixels; 0 for any.
    """

    revision: str
    architecture: str
    factor: int
    tile: int
    device: str
    dtype: str


class Usage(TypedDict):
    """
    Token usage, which clients expect; always 0, since tokens are not metered.

    `candidates` is the number of sampled candidates. `rows_stepped` counts their denoising steps, `rows_unpruned` those
    without pruning.
    """

    total_tokens: int
    input_tokens: int
    output_tokens: int
    input_tokens_details: TokenDetails
    output_tokens_details: TokenDetails
    candidates: int
    rows_stepped: int
    rows_unpruned: int


class ValueOutput(TypedDict):
    """
    What one value shows. `verdict` is by `p_adjusted` at 0.05.
    """

    text: str
    candidates: ShareOutput
    winners: ShareOutput
    difference: DifferenceOutput
    ranking: OddsOutput
    verdict: Literal["favours", "disfavours", "nothing found", "cannot tell"]


class VerifyResponse(TypedDict):
    """
    What the file's C2PA manifest says.

    `none`: the file has no manifest. `invalid`: it was changed, or the manifest is broken. `valid`: whole, by a
    signer that is not known here. `trusted`: whole, by this service or a signer that its operator trusts.
    """

    object: Literal["verification"]
    state: Literal["none", "invalid", "valid", "trusted"]
    """
    none, invalid, valid or trusted, see above.
    """
    signer: str | None
    """
    Organisation of the signing certificate.
    """
    generator: str | None
    """
    Software that wrote the manifest.
    """
    title: str | None
    generated: bool
    """
    Whether the manifest says that a model made the image.
    """
    actions: list[str]
    """
    C2PA's names of what was done, in order.
    """
    parameters: dict[str, Any] | None
    """
    What this software wrote: seed, model, score, hashes.
    """
    ingredients: list[str]
    """
    Titles of the files that it was made from.
    """
    problems: list[str]
    """
    C2PA's codes of failed checks.
    """


class VetoedOutput(TypedDict):
    """
    An image that the veto excludes: its index in the request, and its flags.
    """

    flags: list[Literal["artefact", "typographic"]]
    flag_reasons: dict[str, Any]
    index: int


class VoteDocument(TypedDict):
    """
    A vote with its source.

    `direction` is a float16 vector, little-endian, in base64. `over` is the index of the rejected candidate.
    """

    kind: Literal["like", "dislike", "prefer"]
    generation: str
    index: int
    over: NotRequired[int | None]
    direction: str


LikedItem: TypeAlias = int


DislikedItem: TypeAlias = int


PreferredItemItem: TypeAlias = int


PreferredItem: TypeAlias = list[PreferredItemItem]


class VotesRequest(TypedDict):
    """
    Votes on the candidates of one generation.

    A repeated vote counts once; an opposite vote replaces the earlier one.
    """

    generation: str
    liked: NotRequired[list[LikedItem]]
    disliked: NotRequired[list[DislikedItem]]
    preferred: NotRequired[list[PreferredItem]]
    """
    Pairs of indices: the first is preferred over the second.
    """


class WarningOutput(TypedDict):
    """
    A notice about a successful response; further members depend on `code`.
    """

    code: str
    detail: str


class WebhookInput(TypedDict):
    """
    A signed POST (Standard Webhooks) when the generation ends.

    Delivery is retried until the receiver responds with 2xx or 410, for about three days.
    """

    url: str
    """
    https URL with a public address, unless the server allows others.
    """
    events: NotRequired[list[Literal["succeeded", "failed", "cancelled"]]]
    """
    Final states that are reported.
    """


class WholeImagesOutput(TypedDict):
    """
    What a remote generator takes.

    `seeds`: equal seeds give equal images. `strengths`: initial images have a strength.
    """

    seeds: bool
    steps: bool
    init_images: bool
    strengths: bool
    masks: bool


class WorkOutput(TypedDict):
    """
    Number of computations.
    """

    rows_stepped: int
    rows_unpruned: int
    previews: int
    decodes: int
    images_read: int
    rows_steered: int


class ErrorMember(TypedDict):
    """
    The error in the format of OpenAI clients.
    """

    message: str
    type: str
    param: str | None
    code: str


class FieldError(TypedDict):
    """
    An invalid field: a JSON Pointer into the body, or the name of a parameter.
    """

    detail: str
    pointer: NotRequired[str | None]
    parameter: NotRequired[str | None]


class Problem(TypedDict):
    """
    RFC 9457 problem details.

    `error` repeats the error for OpenAI clients; `errors` lists the invalid fields.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: ErrorMember
    errors: NotRequired[list[FieldError] | None]


class AttributeOutput(TypedDict):
    """
    What one attribute shows.

    `undetermined` are images of which no value is certain.
    """

    name: str
    values: list[ValueOutput]
    undetermined: ShareOutput
    undetermined_winners: ShareOutput


class AuditResponse(TypedDict):
    """
    Shares in the field and among winners, and what the ranking favours.

    `generations` are those that were audited; audit them again with other attributes. `probe_ranks`: the probe took
    part in the ranking.
    """

    object: Literal["audit"]
    probe: str
    probe_revision: str
    probe_ranks: bool
    generations: list[str]
    candidates: int
    winners: int
    attributes: list[AttributeOutput]
    warnings: list[WarningOutput]


class BatchEntryOutput(TypedDict):
    """
    An entry; `id` is that of its generation, null if it was refused or deleted.
    """

    index: int
    id: str | None
    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "refused", "deleted"]
    progress: float
    error: EntryErrorOutput | None


class BatchListResponse(TypedDict):
    """
    A page of batches, newest first.

    `next` is the `after` of the next page; null on the last page.
    """

    object: Literal["list"]
    data: list[BatchSummary]
    has_more: bool
    next: str | None


class BatchResponse(TypedDict):
    """
    A batch with its entries, by index.
    """

    id: str
    object: Literal["batch"]
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created: int
    finished: float | None
    progress: float
    counts: BatchCountsOutput
    entries: list[BatchEntryOutput]


class CalibrationOutput(TypedDict):
    """
    How well previews after each step predict the ranking of final images.

    Valid only for the revisions, sampler, steps and guidance scale it names. `match` is the probability of a match.
    `replay` is what plans really keep.
    """

    generator: str
    scorer: str
    sampler: str
    steps: int
    guidance_scale: float
    spearman: list[float]
    correlation: list[float]
    preview_weight: list[float]
    gap_weight: list[float]
    artefacts: ArtefactLimitsOutput | None
    head: PreviewHeadOutput | None
    match: MatchOutput | None
    replay: ReplayOutput | None


class CandidateOutput(TypedDict):
    """
    One of the N candidates; a pruned one has the score of its last preview.

    `wording` is the text that it was sampled from; null if that is the generation's prompt. `style` is the style in the
    wording, if the server added one to the prompt; null otherwise. A `vetoed` one has a flag of `ranking.veto`, so it
    has no rank. `failure` is why a remote generator made no image of it; null for all others.
    """

    flags: list[Literal["artefact", "typographic"]]
    flag_reasons: dict[str, Any]
    index: int
    seed: int
    wording: str | None
    style: str | None
    rank: int | None
    score: float | None
    scores: dict[str, Any]
    similarity: float | None
    penalty: float | None
    taste: float | None
    pruned_at_step: int | None
    score_is_preview: bool
    duplicate_of: int | None
    vetoed: bool
    probability: float | None
    failure: str | None
    safety: SafetyOutput | None


class DocumentRerankRequest(TypedDict):
    """
    A query and documents.

    Each is a text, a data: URI of an image, or an object with `text` or `image`.
    """

    query: str | InputObject
    """
    Text or image to compare the documents with.
    """
    documents: list[str | InputObject]
    """
    Documents to order.
    """
    model: NotRequired[str | None]
    """
    A scorer with embeddings; GET /v1/models names them under `scorers`. Default: the main one.
    """
    top_n: NotRequired[int | None]
    """
    Documents to return. Default: all.
    """
    return_documents: NotRequired[bool | None]
    """
    Whether results contain their documents. Default: false.
    """
    max_chunks_per_doc: NotRequired[int | None]
    """
    No effect: a document is one chunk.
    """
    max_tokens_per_doc: NotRequired[int | None]
    """
    No effect: the scorer has its own limit.
    """
    rank_fields: NotRequired[list[Literal["text", "image"]] | None]
    """
    The field of documents to compare.
    """
    priority: NotRequired[int | None]
    """
    No effect.
    """
    user: NotRequired[str | None]
    """
    No effect.
    """


class DocumentRerankResponse(TypedDict):
    """
    Documents, most similar first.

    Clients of Cohere read `meta`, those of Jina read `usage`.
    """

    object: Literal["list"]
    id: str
    model: str
    results: list[RerankResult]
    meta: dict[str, Any]
    usage: RerankUsage
    warnings: list[WarningOutput]


class EmbeddingsRequest(TypedDict):
    """
    The request of OpenAI's API.

    A text that is a data: URI of an image is embedded as that image.
    """

    input: str | InputObject | list[str | InputObject]
    """
    Texts and images; token ids are not supported.
    """
    model: NotRequired[str | None]
    """
    A scorer with embeddings; GET /v1/models names them under `scorers`. Default: the main one.
    """
    encoding_format: NotRequired[Literal["float", "base64"] | None]
    """
    base64 encodes little-endian float32. Default: float.
    """
    dimensions: NotRequired[int | None]
    """
    Must be the dimensions of the scorer.
    """
    user: NotRequired[str | None]
    """
    No effect.
    """
    embedding_type: NotRequired[Literal["float", "base64"] | None]
    """
    Jina's name of encoding_format.
    """
    normalized: NotRequired[bool | None]
    """
    Vectors are always normalised.
    """
    task: NotRequired[str | None]
    """
    No effect.
    """
    truncate: NotRequired[bool | None]
    """
    No effect: texts are always truncated.
    """
    late_chunking: NotRequired[bool | None]
    """
    No effect.
    """


class EmbeddingsResponse(TypedDict):
    """
    Vectors in the order of the inputs.
    """

    object: Literal["list"]
    data: list[EmbeddingOutput]
    model: str
    usage: EmbeddingUsage
    warnings: list[WarningOutput]


class ExplanationResponse(TypedDict):
    """
    A candidate's scores by phrase; `of` is the number of ranked candidates.
    """

    object: Literal["why"]
    generation: str
    index: int
    of: int
    phrases: list[PhraseScoreOutput]
    negatives: list[PhraseScoreOutput]


class GenerationSummary(TypedDict):
    """
    A listed generation; `GET /v1/generations/{id}` has all of it.
    """

    id: str
    object: Literal["generation"]
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created: int
    started: float | None
    finished: float | None
    progress: float
    model: str
    prompt: str
    seed: int
    n_candidates: int
    n: int
    data: list[ImageSummary]
    error: FailureOutput | None


class GeneratorOutput(TypedDict):
    """
    Defaults and limits of a generator.

    Sizes are in pixels and multiples of `size_multiple`. `guidance`: `cfg` combines two predictions, `embedded` is an
    input of the denoiser. `unguided_scale`: the largest guidance scale at which a `cfg` model is unguided, and negative
    prompts do not steer. `second_order`: samplers with two denoiser calls per step.
    `controls`: kinds of control images.
    `prompt_weights`: whether weights such as `(red:1.4)` are `applied`, need a package (`not_installed`), or are
    `unsupported`. `long_prompts`: texts above the token limit are truncated, or read in `chunks`.
    `defaults_from`: `steps` and `guidance_scale` are the `pipeline`'s defaults, follow from the model's `files`, or are
    assumed from a word in its `name`.
    `quality`: candidates and steps of each quality, for requests that name neither.
    `steering`: whether requests may have `steering`; `steering_refusal`: why not, as far as is known.
    `loras`: LoRA adapters that requests may name; `default_loras`: those of requests that name none.
    `spread_styles`: candidates of a prompt without a style are drawn in these in turn; empty: in none.
    `whole_images`: traits of a remote generator; null for others.
    """

    revision: str
    width: int
    height: int
    size_multiple: int
    max_size: int
    steps: int
    guidance_scale: float
    sampler: str
    samplers: list[str]
    token_limit: int
    prediction_type: str
    device: str
    dtype: str
    guidance: Literal["cfg", "embedded", "none"]
    negative_prompts: bool
    controls: list[str]
    unguided_scale: float
    second_order: list[str]
    prompt_weights: Literal["applied", "not_installed", "unsupported"]
    long_prompts: Literal["truncate", "chunks"]
    defaults_from: Literal["pipeline", "files", "name"]
    steering: bool
    steering_refusal: str | None
    loras: list[str]
    quality: dict[str, Any]
    default_loras: list[LoraOutput]
    spread_styles: list[str]
    whole_images: WholeImagesOutput | None


class ImageItem(TypedDict):
    """
    One image: OpenAI's members first, then Frontrunner's.

    Exactly one of `b64_json` and `url` is present.
    """

    b64_json: NotRequired[str]
    url: NotRequired[str]
    rank: int
    index: int
    seed: int
    score: float
    similarity: float
    penalty: float
    negatives: list[NegativeOutput]


class ImageOutput(TypedDict):
    """
    A returned image.

    `seed` alone reproduces it. `wording` is the text that it was sampled from; null if that is the generation's prompt.
    `style` is the style in the wording, if the server added one to the prompt; null otherwise. With another wording,
    that text as prompt and `seed` make the same image. `duplicate_of` is the index of a better near-duplicate.
    `score_is_preview` marks a pruned candidate that a re-ranking returned: its image is its last preview. `url` is a
    path. On servers with keys it is signed, and shows the image without a key until it expires. `safety` is null if no
    classifier looked at the image. `probability` is that the image shows the prompt of the ranking, where half of all
    pairs do; null if it was not calibrated.
    """

    flags: list[Literal["artefact", "typographic"]]
    flag_reasons: dict[str, Any]
    score: float
    scores: dict[str, Any]
    similarity: float
    penalty: float
    taste: float
    contrast: float
    prompt_similarity: float
    negatives: list[NegativeOutput]
    references: list[ReferenceOutput]
    rank: int
    index: int
    seed: int
    wording: str | None
    style: str | None
    score_is_preview: bool
    duplicate_of: int | None
    softmax: float | None
    z_score: float | None
    probability: float | None
    safety: SafetyOutput | None
    url: str | None
    b64_json: str | None


class ImagesResponse(TypedDict):
    """
    The response of OpenAI's API; `id` is the id of the generation.
    """

    created: int
    data: list[ImageItem]
    background: Literal["opaque"]
    output_format: Literal["png", "webp", "jpeg"]
    size: str
    usage: Usage
    id: str
    model: str
    warnings: list[WarningOutput]


class ModelResponse(TypedDict):
    """
    A model; a pack is generator and scorer under one id.

    `created` is always 0: OpenAI clients expect it, and the time is unknown. `serving` is present with several models.
    One that was never loaded has no further members.
    """

    id: str
    object: NotRequired[Literal["model"]]
    created: NotRequired[int]
    owned_by: NotRequired[Literal["frontrunner"]]
    generator: NotRequired[GeneratorOutput]
    scorer: NotRequired[ScorerOutput]
    upscaler: NotRequired[UpscalerOutput]
    calibration: NotRequired[CalibrationOutput]
    serving: NotRequired[ServingOutput]


class PresetListResponse(TypedDict):
    """
    All presets, in the order of the file.
    """

    object: Literal["list"]
    data: list[PresetOutput]


class RankedImageOutput(TypedDict):
    """
    A ranked upload.

    `index` is its position in the request, `duplicate_of` that of a better near-duplicate. `probability` is that the
    image shows the prompt, by images of the loaded generator; null if unknown.
    """

    flags: list[Literal["artefact", "typographic"]]
    flag_reasons: dict[str, Any]
    score: float
    scores: dict[str, Any]
    similarity: float
    penalty: float
    taste: float
    contrast: float
    prompt_similarity: float
    negatives: list[NegativeOutput]
    references: list[ReferenceOutput]
    rank: int
    index: int
    duplicate_of: int | None
    softmax: float | None
    z_score: float | None
    probability: float | None


class RankingInput(TypedDict):
    """
    How images are ranked.

    score = similarity - negative_weight * penalty + taste - contrast.

    Every field is optional. An omitted field keeps its value: that of the source generation in rerank and refine,
    else the default. `null` resets a field to its default.
    """

    prompt: NotRequired[str | None]
    """
    Text to score against. Default: the prompt that was sampled.
    """
    negatives: NotRequired[list[NegativeInput] | None]
    """
    Texts in the penalty; they do not affect sampling. Default: none.
    """
    negative_weight: NotRequired[float | None]
    """
    Weight of the penalty. Default: 0.5.
    """
    references: NotRequired[list[ReferenceInput] | None]
    """
    Images to resemble or to avoid. Default: none.
    """
    taste: NotRequired[TasteInput | None]
    """
    Taste profile added to the score. Default: none.
    """
    diversity: NotRequired[float | None]
    """
    Above 0, returned images also differ from each other. Default: 0.
    """
    min_score: NotRequired[float | None]
    """
    Candidates with a lower score are not returned. Default: no limit.
    """
    min_probability: NotRequired[float | None]
    """
    Candidates that show the prompt with a lower probability are not returned. Default: no limit.
    """
    veto: NotRequired[list[Literal["artefact", "typographic"]] | None]
    """
    Images with one of these flags are not returned. Default: none.
    """
    scorers: NotRequired[list[ScorerInput] | None]
    """
    Scorers that rank together. Default: those of the server.
    """
    uncertainty: NotRequired[float | None]
    """
    Weight of the scorers' disagreement, with several. Default: 0.5.
    """
    contrast: NotRequired[bool | None]
    """
    Subtract the similarity to near misses of the prompt. Default: false.
    """
    cascade: NotRequired[int | None]
    """
    Candidates that scorers without embeddings see, the best of the others. Default: by their cost.
    """
    balance: NotRequired[BalanceInput | None]
    """
    Pick the best within shares of an attribute, by the main scorer. Default: none.
    """


class RankingOutput(TypedDict):
    """
    The ranking that was used; a re-ranking may have changed `prompt`.

    `scorers` is empty if the main scorer ranks alone. `near_misses` are the texts of `contrast`.
    """

    prompt: str
    negative_weight: float
    negatives: list[RankingNegative]
    diversity: float
    min_score: float | None
    min_probability: float | None
    references: list[RankingReference]
    taste: RankingTaste | None
    veto: list[Literal["artefact", "typographic"]]
    scorers: list[RankingScorer]
    uncertainty: float
    contrast: bool
    near_misses: list[str]
    cascade: int | None
    balance: RankingBalance | None


class RefineRequest(TypedDict):
    """
    New candidates from an earlier one.

    Omitted fields keep the generation's values, except `seed`, which is random.
    """

    negative_prompt: NotRequired[str | None]
    """
    Steers sampling away from this text; also a negative of weight 1.
    """
    n_candidates: NotRequired[Literal["auto"] | int | None]
    """
    Images to sample and rank; auto samples waves until another would gain little.
    """
    max_candidates: NotRequired[int | None]
    """
    Maximum for n_candidates auto.
    """
    steps: NotRequired[int | None]
    """
    Denoising steps.
    """
    guidance_scale: NotRequired[float | None]
    """
    Up to the model's `unguided_scale`, mostly 1, sampling is unguided.
    """
    sampler: NotRequired[str | None]
    """
    A sampler of the model; GET /v1/models lists them.
    """
    loras: NotRequired[list[LoraInput] | None]
    """
    LoRA adapters to use together; an empty list uses none.
    """
    seed: NotRequired[int | None]
    """
    Seed of candidate 0, below 2^64; candidate i has seed + i. null or -1 selects a random one.
    """
    ranking: NotRequired[RankingInput]
    steering: NotRequired[SteeringInput | None]
    """
    Moves candidates along the gradient of their own score. A scale of 0 is off.
    """
    pruning: NotRequired[Literal["auto", "off"] | list[CheckpointInput] | None]
    """
    auto, off, or the checkpoints at which weak candidates are dropped.
    """
    provenance: NotRequired[Literal["none", "metadata", "c2pa"] | None]
    """
    metadata writes prompt, seed, model and score into image files, c2pa a signed manifest.
    """
    safety: NotRequired[Literal["off", "flag", "veto"] | None]
    """
    flag marks images that a classifier flags, veto also withholds them. Default: the server's. No guarantee.
    """
    webhook: NotRequired[WebhookInput | None]
    """
    Receiver of a notification when the generation ends.
    """
    index: NotRequired[int | None]
    """
    Index of the candidate to start from.
    """
    image: NotRequired[str | None]
    """
    Instead of index: an image, such as a sketch, as a data: URI or bare base64.
    """
    mask: NotRequired[str | None]
    """
    An image of the same size, as a data: URI or bare base64: only its white area is redrawn.
    """
    strength: NotRequired[float | None]
    """
    0 keeps the initial image, 1 ignores it. Default: 0.5; with a mask, which keeps the rest: 1.
    """
    control: NotRequired[list[ControlInput] | None]
    """
    Images that the composition follows. Default: those of the generation.
    """
    prompt: NotRequired[str | None]
    """
    What the images should show. Default: the prompt of the last ranking.
    """
    n: NotRequired[int | None]
    previews: NotRequired[int]
    """
    Rounds of preview images in the event stream.
    """
    deterministic: NotRequired[bool | None]
    """
    Use a fixed batch size. Default: as in the generation.
    """
    response_format: NotRequired[Literal["url", "b64_json"]]
    output_format: NotRequired[Literal["png", "webp", "jpeg"] | None]
    """
    File format. Default: that of the generation.
    """


class RerankRequest(TypedDict):
    """
    A new ranking of the same candidates.

    Fields that `ranking` omits keep the generation's values.
    """

    ranking: NotRequired[RankingInput]
    n: NotRequired[int | None]
    """
    Images to return, best first.
    """
    include_pruned: NotRequired[bool | None]
    """
    Rank pruned candidates by their last preview. Default: true if texts or references changed.
    """
    store: NotRequired[bool]
    """
    Store the result as a new generation.
    """


class TasteProfileDocument(TypedDict):
    """
    A complete profile, for backup or import on a server with the same scorer.

    `centre` is a float32 vector, little-endian, in base64.
    """

    object: NotRequired[Literal["taste_profile"]]
    scorer: str
    revision: str
    centre: str
    fields: int
    votes: list[VoteDocument]


class AuditRequest(TypedDict):
    """
    What candidates show, and what the ranking favours.

    Send one of `prompt`, `prompts` and `generations`. The other fields on sampling apply to prompts.
    """

    attributes: list[AttributeInput]
    """
    What to ask of every image.
    """
    prompt: NotRequired[str | None]
    """
    A prompt to sample candidates of.
    """
    prompts: NotRequired[list[Prompt] | None]
    """
    Prompts to sample candidates of.
    """
    generations: NotRequired[list[str] | None]
    """
    Ids of your own generations.
    """
    probe: NotRequired[str | None]
    """
    A loaded scorer with embeddings. Default: one that takes no part in the ranking.
    """
    force: NotRequired[bool]
    """
    Admit a probe that takes part in the ranking.
    """
    certainty: NotRequired[float]
    """
    Share of the likeliest value below which an image is undetermined.
    """
    n_candidates: NotRequired[int | None]
    """
    Candidates of each prompt.
    """
    n: NotRequired[int | None]
    """
    Best images that win. Default: 1, and of stored generations all returned ones.
    """
    negative_prompt: NotRequired[str | None]
    """
    As in a generation.
    """
    seed: NotRequired[int | None]
    """
    Seed of the first candidate of all.
    """
    steps: NotRequired[int | None]
    """
    Denoising steps.
    """
    guidance_scale: NotRequired[float | None]
    """
    As in a generation.
    """
    sampler: NotRequired[str | None]
    """
    A sampler of the model.
    """
    size: NotRequired[str | None]
    """
    WIDTHxHEIGHT in pixels.
    """
    ranking: NotRequired[RankingInput]
    """
    The ranking to audit, for prompts.
    """
    safety: NotRequired[Literal["off", "flag", "veto"] | None]
    """
    flag marks images that a classifier flags, veto also withholds them. Default: the server's. No guarantee.
    """
    model: NotRequired[str | None]
    """
    A generator; GET /v1/models lists them. Default: the first, or what made the first generation.
    """


class GenerationListResponse(TypedDict):
    """
    A page of generations, newest first.

    `next` is the `after` of the next page; null on the last page.
    """

    object: Literal["list"]
    data: list[GenerationSummary]
    has_more: bool
    next: str | None


class GenerationRequest(TypedDict):
    """
    Sample `n_candidates` images, rank them, return the best `n`.
    """

    negative_prompt: NotRequired[str | None]
    """
    Steers sampling away from this text; also a negative of weight 1.
    """
    n_candidates: NotRequired[Literal["auto"] | int | None]
    """
    Images to sample and rank; auto samples waves until another would gain little.
    """
    max_candidates: NotRequired[int | None]
    """
    Maximum for n_candidates auto.
    """
    steps: NotRequired[int | None]
    """
    Denoising steps.
    """
    guidance_scale: NotRequired[float | None]
    """
    Up to the model's `unguided_scale`, mostly 1, sampling is unguided.
    """
    sampler: NotRequired[str | None]
    """
    A sampler of the model; GET /v1/models lists them.
    """
    loras: NotRequired[list[LoraInput] | None]
    """
    LoRA adapters to use together; an empty list uses none.
    """
    seed: NotRequired[int | None]
    """
    Seed of candidate 0, below 2^64; candidate i has seed + i. null or -1 selects a random one.
    """
    ranking: NotRequired[RankingInput]
    steering: NotRequired[SteeringInput | None]
    """
    Moves candidates along the gradient of their own score. A scale of 0 is off.
    """
    pruning: NotRequired[Literal["auto", "off"] | list[CheckpointInput] | None]
    """
    auto, off, or the checkpoints at which weak candidates are dropped.
    """
    provenance: NotRequired[Literal["none", "metadata", "c2pa"] | None]
    """
    metadata writes prompt, seed, model and score into image files, c2pa a signed manifest.
    """
    safety: NotRequired[Literal["off", "flag", "veto"] | None]
    """
    flag marks images that a classifier flags, veto also withholds them. Default: the server's. No guarantee.
    """
    webhook: NotRequired[WebhookInput | None]
    """
    Receiver of a notification when the generation ends.
    """
    prompt: str
    """
    What the images should show.
    """
    model: NotRequired[str | None]
    """
    A generator; GET /v1/models lists them. Default: the first.
    """
    deterministic: NotRequired[bool]
    """
    Use a fixed batch size, so that pixels do not depend on other requests.
    """
    aspect_ratio: NotRequired[str | None]
    """
    WIDTH:HEIGHT instead of size: selects the nearest size at the model's default area.
    """
    fit: NotRequired[Literal["exact", "nearest"]]
    """
    exact refuses a size that the model does not support; nearest samples a near size and resizes.
    """
    output_size: NotRequired[str | None]
    """
    WIDTHxHEIGHT to crop and scale images to. Without size, images are sampled in its ratio.
    """
    variants: NotRequired[list[Variant] | AutoVariants | None]
    """
    Texts to sample from instead of the prompt, which ranks all; or how many wordings the server makes.
    """
    n: NotRequired[int]
    """
    Images to return, best first.
    """
    size: NotRequired[str | None]
    """
    WIDTHxHEIGHT in pixels.
    """
    previews: NotRequired[int]
    """
    Rounds of preview images in the event stream.
    """
    response_format: NotRequired[Literal["url", "b64_json"]]
    """
    Whether `data` holds links or base64 images.
    """
    output_format: NotRequired[Literal["png", "webp", "jpeg"]]
    """
    File format of the images.
    """
    quality: NotRequired[Literal["draft", "standard", "best"] | None]
    """
    Selects candidates and steps that the request omits; GET /v1/models shows them.
    """
    image: NotRequired[str | None]
    """
    The initial image, such as a sketch, as a data: URI or bare base64.
    """
    strength: NotRequired[float | None]
    """
    Only with image: 0 keeps the initial image, 1 ignores it. Default: 0.75.
    """
    control: NotRequired[list[ControlInput]]
    """
    Images that the composition follows, for models with ControlNets.
    """


class GenerationResponse(TypedDict):
    """
    The current state of a generation, with the parameters that were used.

    `size` is the sampled size, `output_size` that of the image files. `stopped`: why sampling in waves ended: `cap` is
    the maximum, `gain` means another wave would gain little. `progress` is the completed share of the work, from 0 to
    1. Some models only know English captions: they read other texts as such. `understood` is the caption that stands
    for the prompt, and `prompt_language` is the prompt's language (BCP 47, or `emoji`). Both are null if it was read as
    it is. `step` is completed by all `live` candidates, those that are sampled and not pruned, while it runs.
    `judged`: how many candidates the scorers of an ensemble without embeddings saw. `margin_error` is the standard
    error of `margin`.
    """

    id: str
    object: Literal["generation"]
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created: int
    started: float | None
    finished: float | None
    model: str
    scorer: str
    prompt: str
    prompt_language: str | None
    understood: str | None
    negative_prompt: str
    seed: int
    n_candidates: int
    n: int
    size: str
    output_size: str
    steps: int
    guidance_scale: float
    sampler: str
    steering: SteeringOutput | None
    loras: list[LoraOutput]
    ranking: RankingOutput
    checkpoints: list[dict[str, Any]]
    deterministic: bool
    output_format: Literal["png", "webp", "jpeg"]
    provenance: Literal["none", "metadata", "c2pa"]
    safety: Literal["off", "flag", "veto"]
    parent: ParentOutput | None
    strength: float | None
    masked: bool
    control: list[ControlOutput]
    queue_position: int | None
    eta_seconds: float | None
    progress: float
    step: int | None
    live: int | None
    data: list[ImageOutput]
    candidates: list[CandidateOutput]
    margin: float | None
    margin_error: float | None
    low_confidence: bool
    agreement: float | None
    judged: int | None
    referee: RefereeOutput | None
    stopped: Literal["cap", "gain"] | None
    warnings: list[WarningOutput]
    timings: TimingsOutput
    work: WorkOutput
    error: FailureOutput | None


class ImagesRequest(TypedDict):
    """
    The request of OpenAI's API with additional fields of Frontrunner.
    """

    negative_prompt: NotRequired[str | None]
    """
    Steers sampling away from this text; also a negative of weight 1.
    """
    n_candidates: NotRequired[Literal["auto"] | int | None]
    """
    Images to sample and rank; auto samples waves until another would gain little.
    """
    max_candidates: NotRequired[int | None]
    """
    Maximum for n_candidates auto.
    """
    steps: NotRequired[int | None]
    """
    Denoising steps.
    """
    guidance_scale: NotRequired[float | None]
    """
    Up to the model's `unguided_scale`, mostly 1, sampling is unguided.
    """
    sampler: NotRequired[str | None]
    """
    A sampler of the model; GET /v1/models lists them.
    """
    loras: NotRequired[list[LoraInput] | None]
    """
    LoRA adapters to use together; an empty list uses none.
    """
    seed: NotRequired[int | None]
    """
    Seed of candidate 0, below 2^64; candidate i has seed + i. null or -1 selects a random one.
    """
    ranking: NotRequired[RankingInput]
    steering: NotRequired[SteeringInput | None]
    """
    Moves candidates along the gradient of their own score. A scale of 0 is off.
    """
    pruning: NotRequired[Literal["auto", "off"] | list[CheckpointInput] | None]
    """
    auto, off, or the checkpoints at which weak candidates are dropped.
    """
    provenance: NotRequired[Literal["none", "metadata", "c2pa"] | None]
    """
    metadata writes prompt, seed, model and score into image files, c2pa a signed manifest.
    """
    safety: NotRequired[Literal["off", "flag", "veto"] | None]
    """
    flag marks images that a classifier flags, veto also withholds them. Default: the server's. No guarantee.
    """
    webhook: NotRequired[WebhookInput | None]
    """
    Receiver of a notification when the generation ends.
    """
    prompt: str
    """
    What the images should show.
    """
    model: NotRequired[str | None]
    """
    A generator; GET /v1/models lists them. Default: the first.
    """
    deterministic: NotRequired[bool]
    """
    Use a fixed batch size, so that pixels do not depend on other requests.
    """
    aspect_ratio: NotRequired[str | None]
    """
    WIDTH:HEIGHT instead of size: selects the nearest size at the model's default area.
    """
    fit: NotRequired[Literal["exact", "nearest"]]
    """
    exact refuses a size that the model does not support.
    """
    output_size: NotRequired[str | None]
    """
    WIDTHxHEIGHT to crop and scale images to. Without size, images are sampled in its ratio.
    """
    variants: NotRequired[list[Variant] | AutoVariants | None]
    """
    Texts to sample from instead of the prompt, which ranks all; or how many wordings the server makes.
    """
    n: NotRequired[int | None]
    """
    Images to return, best first. Default: 1.
    """
    size: NotRequired[str | None]
    """
    WIDTHxHEIGHT in pixels, or auto for the model's default. An unsupported size is sampled near it and resized.
    """
    response_format: NotRequired[Literal["url", "b64_json"] | None]
    """
    Default: b64_json for the model names gpt-image-* and chatgpt-image-*, else url.
    """
    output_format: NotRequired[Literal["png", "webp", "jpeg"] | None]
    """
    File format of the images. Default: png.
    """
    stream: NotRequired[bool | None]
    """
    Respond with server-sent events.
    """
    partial_images: NotRequired[int | None]
    """
    Maximum previews in the stream.
    """
    quality: NotRequired[
        Literal["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto", "draft", "best"] | None
    ]
    """
    Selects candidates and steps that the request omits: low a draft, hd and high the best.
    """
    background: NotRequired[Literal["transparent", "opaque", "auto"] | None]
    style: NotRequired[Literal["vivid", "natural"] | None]
    moderation: NotRequired[Literal["low", "auto"] | None]
    user: NotRequired[str | None]
    safety_identifier: NotRequired[str | None]
    output_compression: NotRequired[int | None]
    complexity: NotRequired[Literal["low", "medium", "high"] | None]
    frame_count: NotRequired[int | None]
    frame_duration_ms: NotRequired[int | None]
    svg: NotRequired[dict[str, Any] | None]


class LineageResponse(TypedDict):
    """
    The ancestors of a generation, from the root to itself.

    `missing` is the id of a deleted ancestor, before which the lineage is unknown.
    """

    object: str
    data: list[GenerationResponse]
    missing: str | None


class ModelListResponse(TypedDict):
    """
    The models and the limits of requests.

    `scorers` are all scorers of the default model, the main one first, once it was loaded. `ensemble` is whether
    requests that name none use all of them.
    """

    object: Literal["list"]
    data: list[ModelResponse]
    scorers: list[PanelOutput]
    ensemble: bool
    safety: SafetyInfoOutput
    limits: LimitsOutput


class RankResponse(TypedDict):
    """
    Ranked uploads, best first.

    `understood` and `prompt_language` are as in a generation. With `on_error: "skip"`, `skipped` lists the images that
    cannot be decoded. `vetoed` lists those with a flag in `ranking.veto`.
    """

    object: Literal["rank"]
    scorer: str
    prompt: str
    prompt_language: str | None
    understood: str | None
    ranking: RankingOutput
    data: list[RankedImageOutput]
    skipped: list[SkippedOutput]
    vetoed: list[VetoedOutput]
    margin: float | None
    margin_error: float | None
    low_confidence: bool
    agreement: float | None
    warnings: list[WarningOutput]


class BatchRequest(TypedDict):
    """
    Generations to make when no single request waits.
    """

    on_error: NotRequired[Literal["fail", "skip"]]
    """
    fail refuses a batch with an invalid entry; skip makes the other entries.
    """
    webhook: NotRequired[WebhookInput | None]
    """
    Receiver of a notification when the batch ends.
    """
    requests: list[GenerationRequest]
    """
    Bodies of POST /v1/generations.
    """
