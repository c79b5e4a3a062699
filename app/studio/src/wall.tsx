import { sentence, thumbnail, type Candidate, type Generation, type Inspected, type Ranked } from "./api";
import { Audit } from "./audit";
import { Bar, PlaceBar } from "./bar";
import { Controls } from "./controls";
import { Copy } from "./copy";
import { like } from "./draft";
import { Inspector } from "./inspector";
import { entry } from "./kept";
import { vote } from "./liking";
import { useGlide } from "./motion";
import { Picture } from "./picture";
import { Prose } from "./prose";
import { density } from "./run";
import { flagged, isCombined, lead, reach, unsafe, written } from "./score";
import { board, focus, mark, pair, pick, shown, weights, type Board } from "./state";

const THUMB = 256;
const narrow = matchMedia("(max-width: 820px)");

function edit(made: Generation): void {
  like(made);
  const first = document.querySelector<HTMLElement>(".composer textarea");
  first?.focus();
  if (narrow.matches) first?.scrollIntoView({ block: "center" });
}

/** Select a candidate; on a narrow page scroll to its large image. */
function look(index: number): void {
  focus.value = index;
  if (narrow.matches) document.querySelector(".inspector")?.scrollIntoView({ block: "start" });
}

/** The ranked candidates beside the selected one. */
export function Wall() {
  const made = shown.value as Generation;
  const now = board.value as Board;
  const ranked = new Set(now.data.map((r) => r.index));
  const rest = made.candidates
    .filter((c) => !ranked.has(c.index))
    .sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity));
  const list = useGlide<HTMLOListElement>([...now.data, ...rest].map((c) => c.index).join());
  const weight = weights.value?.negativeWeight ?? 0;
  const most = reach(now.data, weight);
  const seen = (now.data.find((r) => r.index === focus.value) ?? now.data[0])?.index;
  return (
    <section class="wall" aria-label="The result">
      <header class="heading">
        <h1>{made.ranking.prompt}</h1>
        <div class="tools">
          <button type="button" onClick={() => edit(made)}>
            Edit and run again
          </button>
          <Copy made={made} />
        </div>
      </header>
      <p class="summary">{summary(made, now)}</p>
      <Notices now={now} />
      <Inspector made={made} data={now.data} most={most} />
      <Controls made={made} />
      <Audit key={made.id} made={made} />
      <h2 class="unseen">Candidates</h2>
      <p class="unseen" id="keys">
        Arrow keys, Home and End move; P picks, L likes, D dislikes, C compares.
      </p>
      <ol class={`tiles ${density(made.candidates.length)}`} ref={list} onKeyDown={onKeyDown} aria-describedby="keys">
        {now.data.map((one) => (
          <Tile key={one.index} made={made} one={one} most={most} weight={weight} entrance={one.index === seen} />
        ))}
        {rest.map((one) => (
          <Rest key={one.index} made={made} one={one} />
        ))}
      </ol>
      <p class="keys quiet" aria-hidden="true">
        <kbd>←</kbd> <kbd>→</kbd> move <kbd>P</kbd> pick <kbd>L</kbd> like <kbd>D</kbd> dislike <kbd>C</kbd> compare
      </p>
    </section>
  );
}

function summary(made: Generation, now: Board): string {
  const out = made.candidates.filter((c) => c.pruned_at_step !== null).length;
  const saved = 1 - made.work.rows_stepped / made.work.rows_unpruned;
  const drawn = made.parent?.kind !== "rerank";
  const told = [
    `${made.n_candidates} candidates ${drawn ? `in ${(made.timings.total_ms / 1000).toFixed(1)} s` : "re-ranked"}`,
    ...(drawn && out > 0 ? [`${out} pruned`, `${Math.round(100 * saved)} % of the work saved`] : []),
    ...(now.margin !== null ? [lead(now.margin, now.marginError)] : []),
  ];
  return told.join(" · ");
}

function Notices({ now: { lowConfidence, warnings } }: { now: Board }) {
  if (!lowConfidence && warnings.length === 0) return null;
  return (
    <ul class="notices">
      {lowConfidence && <li>Low confidence: the score differences are within noise.</li>}
      {warnings.map((warning) => (
        <li key={warning.code + warning.detail}>
          <Prose text={sentence(warning.detail)} />
        </li>
      ))}
    </ul>
  );
}

interface TileProps {
  made: Generation;
  one: Ranked;
  most: number;
  /** The negative weight. */
  weight: number;
  /** Whether Tab focuses this tile; arrow keys move from it. */
  entrance: boolean;
}

function Tile({ made, one, most, weight, entrance }: TileProps) {
  const here = entry(made.id);
  const liking = here?.votes[one.index];
  const picked = here?.picked === one.index;
  const classes = [
    "tile",
    one.rank === 1 ? "first" : "",
    one.rank <= made.n ? "best" : "",
    entrance ? "seen" : "",
    one.score_is_preview ? "preview" : "",
    pair.value.includes(one.index) ? "marked" : "",
  ];
  return (
    <li class={classes.filter(Boolean).join(" ")} data-key={one.index} data-index={one.index} title={one.style ?? undefined}>
      <button
        type="button"
        tabIndex={entrance ? 0 : -1}
        aria-pressed={entrance}
        aria-label={`Rank ${one.rank}, candidate ${one.index + 1}, score ${written(one.score)}${described(one, picked, liking)}`}
        onClick={() => look(one.index)}
      >
        <Picture path={thumbnail(made, one.index, THUMB)} alt="" lazy />
        {(picked || liking || one.flags.length > 0 || one.safety?.flagged) && (
          <span class="flags" aria-hidden="true">
            {one.safety?.flagged ? <b class="unsafe">flagged</b> : ""}
            {one.flags.length > 0 ? "⚑" : ""}
            {picked ? "★" : ""}
            {liking === 1 ? "♥" : liking === -1 ? "✕" : ""}
          </span>
        )}
      </button>
      <p class="numbers">
        <span>{one.rank}</span>
        <span>{written(one.score)}</span>
      </p>
      <Style one={one} />
      {isCombined(one) ? (
        <PlaceBar score={one.score} field={(board.value?.data ?? []).map((r) => r.score)} />
      ) : (
        <Bar scored={one} most={most} negativeWeight={weight} />
      )}
    </li>
  );
}

/** The style that the server added to the prompt. The label of the image holds it too. */
function Style({ one }: { one: Inspected }) {
  return one.style === null ? null : (
    <p class="style" aria-hidden="true">
      {one.style}
    </p>
  );
}

function described(one: Ranked, picked: boolean, liking: 1 | -1 | undefined): string {
  return [
    one.style !== null ? `, ${one.style}` : "",
    one.score_is_preview ? ", preview score" : "",
    one.duplicate_of !== null ? `, near-duplicate of candidate ${one.duplicate_of + 1}` : "",
    one.flags.length > 0 ? `, ${flagged(one)}` : "",
    one.safety?.flagged ? `, ${unsafe(one.safety)}` : "",
    picked ? ", picked" : "",
    liking === 1 ? ", liked" : liking === -1 ? ", disliked" : "",
  ].join("");
}

function Rest({ made, one }: { made: Generation; one: Candidate }) {
  const { minScore, diversity } = weights.value ?? { minScore: null, diversity: 0 };
  const hidden = withoutImage(made, one);
  const [short, reason] = hidden ?? absence(one, minScore, diversity, made.ranking.veto);
  const why = one.style === null ? reason : `${reason}, ${one.style}`;
  return (
    <li class="tile rest" data-key={one.index} title={one.style ?? undefined}>
      <div class="frame">
        {hidden ? (
          <span class="unseen">{`Candidate ${one.index + 1}, ${why}`}</span>
        ) : (
          <Picture path={thumbnail(made, one.index, THUMB)} alt={`Candidate ${one.index + 1}, ${why}`} lazy />
        )}
      </div>
      <p class="numbers">
        <span>{short}</span>
        <span>{one.score === null ? "" : written(one.score)}</span>
      </p>
      <Style one={one} />
    </li>
  );
}

/** Why a candidate has no image to show, as a short and a full text. */
function withoutImage(made: Generation, one: Candidate): [string, string] | null {
  if (one.failure !== null) return ["no image", "of which no image was made"];
  return made.safety === "veto" && one.safety?.flagged ? ["withheld", "withheld by safety"] : null;
}

/** Why a candidate is not ranked: a short and a full text. The short one is empty while the ranking loads. */
function absence(one: Candidate, minScore: number | null, diversity: number, veto: string[]): [string, string] {
  if (one.pruned_at_step !== null) return [`out at ${one.pruned_at_step}`, `pruned after step ${one.pruned_at_step}`];
  if (one.flags.some((flag) => veto.includes(flag))) return ["vetoed", `${flagged(one)} and vetoed`];
  if (minScore !== null) return ["below", "below the minimum score"];
  if (diversity > 0 && one.duplicate_of !== null) {
    return [`like ${one.duplicate_of + 1}`, `near-duplicate of candidate ${one.duplicate_of + 1}`];
  }
  return ["", "not ranked yet"];
}

function onKeyDown(event: KeyboardEvent): void {
  const tile = (event.target as HTMLElement).closest<HTMLElement>("[data-index]");
  if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
  const index = Number(tile.dataset.index);
  const row = perRow(tile);
  const moves: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row, Home: -Infinity, End: Infinity };
  const doing: Record<string, () => void> = {
    p: () => pick(index),
    l: () => void vote(index, 1),
    d: () => void vote(index, -1),
    c: () => mark(index),
  };
  const move = moves[event.key];
  if (move !== undefined) {
    const tiles = [...(tile.parentElement?.querySelectorAll<HTMLElement>("[data-index]") ?? [])];
    const at = tiles.indexOf(tile) + move;
    const next = Number.isFinite(move) ? tiles[at] : tiles.at(move < 0 ? 0 : -1);
    next?.querySelector("button")?.focus();
    if (next) focus.value = Number(next.dataset.index);
    event.preventDefault();
  }
  doing[event.key.toLowerCase()]?.();
}

function perRow(tile: HTMLElement): number {
  const list = tile.parentElement as HTMLElement;
  return getComputedStyle(list).gridTemplateColumns.split(" ").length;
}
