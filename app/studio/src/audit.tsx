// What the candidates show by a probe, and what the ranking favours.

import { signal, useSignal } from "@preact/signals";
import { api, Problem, sentence, type Audit as Answer, type AuditedValue, type Generation, type Share } from "./api";
import { Prose } from "./prose";

const open = signal(false);
const texts = signal("");
const force = signal(false);

/**
 * Asks for texts of which one fits an image, and plots their shares among candidates and winners.
 * Its key is the generation, so that a late answer never stands under another one.
 */
export function Audit({ made }: { made: Generation }) {
  const found = useSignal<Answer | null>(null);
  const failed = useSignal("");
  const busy = useSignal(false);
  const values = texts.value.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  const submit = async (event: Event) => {
    event.preventDefault();
    busy.value = true;
    failed.value = "";
    try {
      found.value = await api.audit({
        generations: [made.id],
        attributes: [{ name: "attribute", values }],
        force: force.value,
      });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      failed.value = error.details[0] ?? error.message;
    } finally {
      busy.value = false;
    }
  };
  const told = found.value;
  return (
    <details class="more audit" open={open.value} onToggle={(e) => (open.value = e.currentTarget.open)}>
      <summary>Audit</summary>
      <form onSubmit={(event) => void submit(event)}>
        <label class="field">
          <span>Texts of which one fits an image, one a line</span>
          <textarea
            rows={3}
            value={texts.value}
            placeholder={"a red car\na blue car"}
            onInput={(e) => (texts.value = e.currentTarget.value)}
          />
        </label>
        <label>
          <input type="checkbox" checked={force.value} onChange={(e) => (force.value = e.currentTarget.checked)} /> Ask the
          scorer that ranks, if no other is loaded
        </label>
        <button type="submit" disabled={values.length < 2 || busy.value}>
          {busy.value ? "Auditing…" : "Audit the candidates"}
        </button>
      </form>
      {failed.value && (
        <p role="alert">
          <Prose text={sentence(failed.value)} />
        </p>
      )}
      {told && <Findings told={told} />}
    </details>
  );
}

function Findings({ told }: { told: Answer }) {
  const attribute = told.attributes[0];
  if (attribute === undefined) return null;
  return (
    <>
      <table>
        <thead>
          <tr>
            <th scope="col">By {told.probe}</th>
            <th scope="col">Candidates</th>
            <th scope="col">Winners</th>
            <th scope="col">Ranking</th>
          </tr>
        </thead>
        <tbody>
          {attribute.values.map((value) => (
            <Row key={value.text} value={value} />
          ))}
          <tr>
            <th scope="row">undetermined</th>
            <Plot column="Candidates" share={attribute.undetermined} />
            <Plot column="Winners" share={attribute.undetermined_winners} />
            <td />
          </tr>
        </tbody>
      </table>
      <ul class="notices">
        {told.warnings.map((warning) => (
          <li key={warning.code}>
            <Prose text={sentence(warning.detail)} />
          </li>
        ))}
      </ul>
    </>
  );
}

function Row({ value }: { value: AuditedValue }) {
  return (
    <tr>
      <th scope="row">{value.text}</th>
      <Plot column="Candidates" share={value.candidates} />
      <Plot column="Winners" share={value.winners} />
      <td data-column="Ranking">{value.verdict}</td>
    </tr>
  );
}

/** A share as a point, and its interval as a line, from 0 to 100 %. */
function Plot({ column, share: { share, low, high } }: { column: string; share: Share }) {
  if (share === null || low === null || high === null) return <td data-column={column}>–</td>;
  const percent = (value: number) => `${Math.round(100 * value)} %`;
  return (
    <td data-column={column}>
      <svg viewBox="-4 0 108 12" width="108" height="12" aria-hidden="true">
        <line class="scale" x1="0" x2="100" y1="6" y2="6" />
        <line x1={100 * low} x2={100 * high} y1="6" y2="6" />
        <circle cx={100 * share} cy="6" r="3.5" />
      </svg>
      <small>
        {percent(share)} ({percent(low)} to {percent(high)})
      </small>
    </td>
  );
}
