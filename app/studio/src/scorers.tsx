import type { Generation, Ranked, ScorerUse } from "./api";
import { Slider } from "./slider";
import { between, written } from "./score";
import { board, weigh } from "./state";

const MOST_WEIGHT = 3;

const LEAST_WEIGHT = 0.1;

/** A weight slider for each scorer; several rank together, and the last one stays on. */
export function ScorerSliders({ scorers }: { scorers: ScorerUse[] }) {
  if (scorers.length < 2) return null;
  const on = scorers.filter((one) => one.weight > 0);
  const set = (name: string, weight: number) =>
    weigh({ scorers: scorers.map((one) => (one.name === name ? { ...one, weight } : one)) });
  return (
    <fieldset class="scorers">
      <legend>Scorers</legend>
      <div class="sliders">
        {scorers.map((one) => (
          <Slider
            key={one.name}
            label={one.name}
            value={one.weight}
            min={on.length === 1 && on[0] === one ? LEAST_WEIGHT : 0}
            max={MOST_WEIGHT}
            step={0.1}
            show={one.weight === 0 ? "off" : one.weight.toFixed(1)}
            onInput={(weight) => set(one.name, weight)}
          />
        ))}
      </div>
      <Agreement />
    </fieldset>
  );
}

function Agreement() {
  const value = board.value?.agreement ?? null;
  if (value === null) return null;
  return <p class="quiet">Agreement of the scorers: {written(value)} (1 is the same order, 0 is chance)</p>;
}

/** Each scorer's own score of a candidate, as its place between the field's lowest and highest. */
export function ScorerBars({ one }: { one: Ranked }) {
  const names = Object.keys(one.scores);
  if (names.length < 2) return null;
  return (
    <div class="judges">
      <h3>Scorers</h3>
      <dl>
        {names.map((name) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              <meter min={0} max={1} value={share(name, one)} aria-label={`${name}, between the field's lowest and highest`} />
              {written(one.scores[name] as number)}
            </dd>
          </div>
        ))}
      </dl>
      <p class="quiet">A bar shows the place of its score between the lowest and the highest of the field.</p>
    </div>
  );
}

function share(name: string, one: Ranked): number {
  return between(one.scores[name] as number, (board.value?.data ?? []).flatMap((r) => r.scores[name] ?? []));
}

/** What a scorer that does not rank says of the winner. */
export function RefereeOpinion({ made }: { made: Generation }) {
  const said = made.referee;
  if (!said) return null;
  const verdict = said.winner > said.median ? "prefers the winner to" : said.winner < said.median ? "does not prefer the winner to" : "sees no difference between the winner and";
  return (
    <p class="quiet">
      The referee {said.name} {verdict} the median candidate ({written(said.winner)}, {written(said.median)}).
    </p>
  );
}
