import { useSignal } from "@preact/signals";
import { picture, type Generation, type Ranked } from "./api";
import { Bar, PlaceBar } from "./bar";
import { entry } from "./kept";
import { vote } from "./liking";
import { Picture, useAddress, useFetched } from "./picture";
import { Prose } from "./prose";
import { mask, painted, RedrawCanvas, RedrawTools, stop } from "./redraw";
import { known } from "./reference";
import { flagged, isCombined, likelihood, ordinal, ownScore, parts, signed, unsafe, written } from "./score";
import { ScorerBars } from "./scorers";
import { board, focus, limits, mark, pair, pick, refine, shown, weigh, weights } from "./state";
import { sought, Why } from "./why";

interface Props {
  made: Generation;
  data: Ranked[];
  most: number;
}

/** The selected candidate: large image, itemised score, and actions. */
export function Inspector({ made, data, most }: Props) {
  const one = data.find((r) => r.index === focus.value) ?? data[0];
  if (!one) return <p class="nothing">No candidate reaches the minimum score. Lower it to show candidates.</p>;
  const small = Number(made.size.split("x")[0]) <= 128;
  return (
    <div class={`inspector ${one.rank === 1 ? "wins" : ""}`}>
      <figure>
        <Picture class={small ? "pixels" : ""} path={picture(made.id, one.index)} alt={`Candidate ${one.index + 1}: ${made.ranking.prompt}`} />
        <Heat />
        <RedrawCanvas made={made} index={one.index} />
      </figure>
      <div class="account">
        <h2>
          <span class="place">{one.rank === 1 ? "First" : ordinal(one.rank)}</span>
          <span class="quiet">
            candidate {one.index + 1} · seed {one.seed}
          </span>
        </h2>
        <Account one={one} most={most} />
        <Actions made={made} one={one} />
        <Why made={made} index={one.index} />
        <Refine key={`${made.id}-${one.index}`} made={made} index={one.index} />
      </div>
    </div>
  );
}

/** The heat map of the selected phrase, laid over the image. */
function Heat() {
  const where = sought.value;
  const { src, problem } = useFetched(where?.path ?? null);
  if (!where) return null;
  if (problem) {
    return (
      <figcaption>
        <span role="alert">
          <Prose text={problem.message} />
        </span>
      </figcaption>
    );
  }
  return (
    <>
      {src && <img class="heat" src={src} alt="" />}
      <figcaption>
        <span>Where “{where.text}” is found</span>
        <span class="scale" aria-hidden="true">
          less <i /> more
        </span>
      </figcaption>
    </>
  );
}

export function Account({ one, most }: { one: Ranked; most: number }) {
  return (
    <div class="sum">
      {isCombined(one) && <Combined one={one} />}
      <Itemised one={one} most={most} />
      <ScorerBars one={one} />
      <p class="quiet">
        {one.softmax !== null && `${Math.round(100 * one.softmax)} % of the softmax`}
        {one.z_score !== null && ` · ${one.z_score.toFixed(1)} σ above chance`}
        {one.score_is_preview && " · preview score"}
        {one.duplicate_of !== null && ` · near-duplicate of candidate ${one.duplicate_of + 1}`}
        {one.flags.length > 0 && ` · ${flagged(one)}`}
        {one.safety?.flagged && ` · ${unsafe(one.safety)}`}
      </p>
      {one.probability !== null && <p class="quiet">{likelihood(one.probability)}</p>}
      {one.wording !== null && <p class="quiet">sampled from “{one.wording}”</p>}
    </div>
  );
}

/** The score of several scorers. It is no sum of the parts below, which are the main scorer's. */
function Combined({ one }: { one: Ranked }) {
  return (
    <div class="combined">
      <PlaceBar score={one.score} field={(board.value?.data ?? []).map((r) => r.score)} />
      <dl>
        <div class="total">
          <dt>score of all scorers, σ</dt>
          <dd>{written(one.score)}</dd>
        </div>
      </dl>
    </div>
  );
}

/** The main scorer's score and its parts, under its name where several scorers rank. */
function Itemised({ one, most }: { one: Ranked; most: number }) {
  const weight = weights.value?.negativeWeight ?? 0;
  const combined = isCombined(one);
  return (
    <>
      {combined && <h3>{shown.value?.scorer}</h3>}
      <Bar scored={one} most={most} negativeWeight={weight} />
      <dl class="itemised">
        {parts(one, weight).map((part, place) => (
          <div key={place} class={part.kind}>
            <dt>{part.name}</dt>
            <dd>{signed(part.value)}</dd>
          </div>
        ))}
        <div class="total">
          <dt>{combined ? "its own score" : "score"}</dt>
          <dd>{written(combined ? ownScore(one, weight) : one.score)}</dd>
        </div>
      </dl>
    </>
  );
}

function Actions({ made, one }: { made: Generation; one: Ranked }) {
  const here = entry(made.id);
  const liking = here?.votes[one.index];
  const file = useAddress(picture(made.id, one.index));
  const now = weights.value?.references ?? [];
  const referred = now.some((r) => r.generation === made.id && r.index === one.index);
  const refer = () => weigh({ references: [...now.filter(known), { image: null, generation: made.id, index: one.index, weight: 0.5 }] });
  return (
    <div class="actions">
      <button type="button" aria-pressed={here?.picked === one.index} onClick={() => pick(one.index)}>
        ★ Pick
      </button>
      <button type="button" aria-pressed={liking === 1} onClick={() => void vote(one.index, 1)}>
        ♥ Like
      </button>
      <button type="button" aria-pressed={liking === -1} onClick={() => void vote(one.index, -1)}>
        ✕ Dislike
      </button>
      <button type="button" aria-pressed={pair.value.includes(one.index)} onClick={() => mark(one.index)}>
        {pair.value.length === 1 && !pair.value.includes(one.index) ? "Compare with the other" : "Compare"}
      </button>
      <button type="button" disabled={referred || now.length >= (limits.value?.references ?? 8)} onClick={refer}>
        More like this
      </button>
      {file && (
        <a class="button" href={file} download={`${made.id}-${one.index}.${made.output_format}`}>
          Save
        </a>
      )}
    </div>
  );
}

function Refine({ made, index }: { made: Generation; index: number }) {
  const chosen = useSignal<number | null>(null);
  const strength = chosen.value ?? (painted(made, index) ? 1 : 0.5);
  const prompt = useSignal("");
  const count = Math.min(made.n_candidates, limits.value?.candidates ?? 64);
  const submit = (event: Event) => {
    event.preventDefault();
    const area = mask(made, index);
    stop();
    void refine({
      index,
      strength,
      ...(area !== null ? { mask: area } : {}),
      ...(prompt.value.trim() ? { prompt: prompt.value } : {}),
      n_candidates: count,
      n: Math.min(made.n, count),
    });
  };
  return (
    <details class="more refine">
      <summary>Refine this candidate</summary>
      <form onSubmit={submit}>
        <RedrawTools made={made} index={index} />
        <label class="slider">
          <span>
            Strength <b>{Math.round(100 * strength)} %</b>
          </span>
          <input
            type="range"
            min={0.05}
            max={1}
            step={0.05}
            value={strength}
            onInput={(e) => (chosen.value = e.currentTarget.valueAsNumber)}
          />
        </label>
        <label class="field">
          <span>Prompt</span>
          <input type="text" value={prompt.value} placeholder={made.ranking.prompt} onInput={(e) => (prompt.value = e.currentTarget.value)} />
        </label>
        <button type="submit">Generate {count} from here</button>
      </form>
    </details>
  );
}
