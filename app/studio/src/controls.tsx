import type { Generation } from "./api";
import { voted } from "./kept";
import { Negatives } from "./negatives";
import { References } from "./references";
import { RefereeOpinion, ScorerSliders } from "./scorers";
import { written } from "./score";
import { Slider } from "./slider";
import { board, changed, keep, limits, unweigh, weigh, weights } from "./state";
import type { Weights } from "./weights";

/** Controls that re-rank the same candidates immediately. */
export function Controls({ made }: { made: Generation }) {
  const now = weights.value as Weights;
  const scores = made.candidates.flatMap((c) => (c.score === null ? [] : [c.score]));
  const floor = Math.floor(100 * Math.min(...scores)) / 100;
  const top = Math.ceil(100 * Math.max(...scores)) / 100;
  return (
    <section class="controls" aria-label="Re-rank">
      <header>
        <h2>Re-rank</h2>
        <div class={changed.value ? "" : "hushed"}>
          <button type="button" disabled={!changed.value} onClick={unweigh}>
            Reset
          </button>
          <button type="button" disabled={!changed.value} onClick={() => void keep()}>
            Store this ranking
          </button>
        </div>
      </header>
      <div class="sliders">
        <Slider label="Negative weight" value={now.negativeWeight} min={0} max={3} step={0.05} show={now.negativeWeight.toFixed(2)} onInput={(negativeWeight) => weigh({ negativeWeight })} />
        <Slider label="Diversity" value={now.diversity} min={0} max={1} step={0.05} show={now.diversity.toFixed(2)} onInput={(diversity) => weigh({ diversity })} />
        <Slider
          label="Minimum score"
          value={now.minScore ?? floor}
          min={floor}
          max={top}
          step={0.005}
          show={now.minScore === null ? "none" : written(now.minScore)}
          onInput={(value) => weigh({ minScore: value <= floor ? null : value })}
        />
        {(voted.value > 0 || now.taste > 0) && (
          <Slider label="Your taste" value={now.taste} min={0} max={1} step={0.1} show={now.taste === 0 ? "off" : `${Math.round(100 * now.taste)} %`} onInput={(taste) => weigh({ taste })} />
        )}
      </div>
      <ScorerSliders scorers={now.scorers} />
      <RefereeOpinion made={made} />
      {made.candidates.some((c) => c.pruned_at_step !== null) && (
        <label class="check">
          <input
            type="checkbox"
            checked={now.pruned ?? board.value?.data.some((r) => r.score_is_preview) ?? false}
            onChange={(e) => weigh({ pruned: e.currentTarget.checked })}
          />
          Include pruned candidates, scored by their last preview
        </label>
      )}
      <details class="more">
        <summary>Prompt, negatives and references</summary>
        <div class="words">
          <label class="field">
            <span>Compare with</span>
            <input type="text" value={now.prompt} onInput={(e) => weigh({ prompt: e.currentTarget.value })} />
          </label>
          <label class="field">
            <span>Negative prompt in the score</span>
            <input type="text" value={now.avoided} onInput={(e) => weigh({ avoided: e.currentTarget.value })} />
          </label>
          <Negatives label="Negatives" list={now.negatives} most={limits.value?.negatives ?? 16} onChange={(negatives) => weigh({ negatives })} />
          <References label="Reference images" list={now.references} onChange={(references) => weigh({ references })} />
        </div>
      </details>
    </section>
  );
}
