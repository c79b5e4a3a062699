import { picture, sentence, type Candidate, type Generation, type Ranked } from "./api";
import { Bar } from "./bar";
import { Controls } from "./controls";
import { Copy } from "./copy";
import { Inspector } from "./inspector";
import { entry } from "./kept";
import { useGlide } from "./motion";
import { density } from "./run";
import { reach, written } from "./score";
import { board, focus, mark, pair, pick, shown, vote, weights, type Board } from "./state";

/** The ranked field, with the one that is looked at beside it. */
export function Wall() {
  const made = shown.value as Generation;
  const now = board.value as Board;
  const ranked = new Set(now.data.map((r) => r.index));
  const rest = made.candidates
    .filter((c) => !ranked.has(c.index))
    .sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity));
  const list = useGlide<HTMLOListElement>([...now.data, ...rest].map((c) => c.index).join());
  const most = reach(now.data);
  return (
    <section class="wall" aria-label="The result">
      <header class="heading">
        <h1>{made.ranking.prompt}</h1>
        <Copy made={made} />
      </header>
      <p class="summary">{summary(made, now)}</p>
      <Notices made={made} lowConfidence={now.lowConfidence} />
      <Inspector made={made} data={now.data} most={most} />
      <Controls made={made} />
      <ol class={`tiles ${density(made.candidates.length)}`} ref={list} onKeyDown={onKeyDown}>
        {now.data.map((one) => (
          <Tile key={one.index} made={made} one={one} most={most} />
        ))}
        {rest.map((one) => (
          <Rest key={one.index} made={made} one={one} />
        ))}
      </ol>
      <p class="keys quiet" aria-hidden="true">
        <kbd>←</kbd> <kbd>→</kbd> walk <kbd>P</kbd> pick <kbd>L</kbd> like <kbd>D</kbd> dislike <kbd>C</kbd> compare
      </p>
    </section>
  );
}

function summary(made: Generation, now: Board): string {
  const out = made.candidates.filter((c) => c.pruned_at_step !== null).length;
  const saved = made.work.rows_unpruned > 0 ? 1 - made.work.rows_stepped / made.work.rows_unpruned : 0;
  const told = [
    `${made.n_candidates} candidates in ${(made.timings.total_ms / 1000).toFixed(1)} s`,
    ...(out > 0 ? [`${out} dropped on the way`, `${Math.round(100 * saved)} % of the work saved`] : []),
    ...(now.margin !== null ? [`${written(now.margin)} ahead of the runner-up`] : []),
  ];
  return told.join(" · ");
}

function Notices({ made, lowConfidence }: { made: Generation; lowConfidence: boolean }) {
  if (!lowConfidence && made.warnings.length === 0) return null;
  return (
    <ul class="notices">
      {lowConfidence && <li>The field is within noise: take the order with a grain of salt.</li>}
      {made.warnings.map((warning) => (
        <li key={warning.code + warning.detail}>{sentence(warning.detail)}</li>
      ))}
    </ul>
  );
}

function Tile({ made, one, most }: { made: Generation; one: Ranked; most: number }) {
  const here = entry(made.id);
  const liking = here?.votes[one.index];
  const picked = here?.picked === one.index;
  const classes = [
    "tile",
    one.rank === 1 ? "first" : "",
    one.rank <= made.n ? "best" : "",
    focus.value === one.index ? "seen" : "",
    one.score_is_preview ? "preview" : "",
    pair.value.includes(one.index) ? "marked" : "",
  ];
  return (
    <li class={classes.filter(Boolean).join(" ")} data-key={one.index} data-index={one.index}>
      <button
        type="button"
        aria-pressed={focus.value === one.index}
        aria-label={`Rank ${one.rank}, candidate ${one.index + 1}, score ${written(one.score)}${described(one, picked, liking)}`}
        onClick={() => (focus.value = one.index)}
      >
        <img src={picture(made.id, one.index)} alt="" loading="lazy" decoding="async" draggable={false} />
        {(picked || liking) && (
          <span class="flags" aria-hidden="true">
            {picked ? "★" : ""}
            {liking === 1 ? "♥" : liking === -1 ? "✕" : ""}
          </span>
        )}
      </button>
      <p class="numbers">
        <span>{one.rank}</span>
        <span>{written(one.score)}</span>
      </p>
      <Bar scored={one} most={most} negativeWeight={weights.value?.negativeWeight ?? 0} />
    </li>
  );
}

function described(one: Ranked, picked: boolean, liking: 1 | -1 | undefined): string {
  return [
    one.score_is_preview ? ", from its preview" : "",
    one.duplicate_of !== null ? `, nearly the same as candidate ${one.duplicate_of + 1}` : "",
    picked ? ", picked" : "",
    liking === 1 ? ", liked" : liking === -1 ? ", disliked" : "",
  ].join("");
}

function Rest({ made, one }: { made: Generation; one: Candidate }) {
  const why = one.pruned_at_step !== null ? `out at ${one.pruned_at_step}` : "below";
  return (
    <li class="tile rest" data-key={one.index}>
      <div class="frame">
        <img
          src={picture(made.id, one.index)}
          alt={`Candidate ${one.index + 1}, ${one.pruned_at_step !== null ? `dropped after step ${one.pruned_at_step}` : "below the least score"}`}
          loading="lazy"
          decoding="async"
          draggable={false}
        />
      </div>
      <p class="numbers">
        <span>{why}</span>
        <span>{one.score === null ? "" : written(one.score)}</span>
      </p>
    </li>
  );
}

function onKeyDown(event: KeyboardEvent): void {
  const tile = (event.target as HTMLElement).closest<HTMLElement>("[data-index]");
  if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
  const index = Number(tile.dataset.index);
  const moves: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow(tile), ArrowUp: -perRow(tile) };
  const doing: Record<string, () => void> = {
    p: () => pick(index),
    l: () => void vote(index, 1),
    d: () => void vote(index, -1),
    c: () => mark(index),
  };
  const move = moves[event.key];
  if (move !== undefined) {
    const tiles = [...(tile.parentElement?.querySelectorAll<HTMLElement>("[data-index]") ?? [])];
    const next = tiles[tiles.indexOf(tile) + move];
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
