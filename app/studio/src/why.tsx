import { signal, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { api, Problem, type Generation, type Phrase, type Why as Answer } from "./api";
import { Prose } from "./prose";
import { ordinal, written } from "./score";
import { weights } from "./state";

/** The phrase whose heat map is shown. */
export const sought = signal<{ text: string; path: string } | null>(null);

const open = signal(false);
const SETTLE_MS = 150;

interface Props {
  made: Generation;
  index: number;
}

/** How well the candidate matches each phrase, its rank among all, and a heat map. */
export function Why({ made, index }: Props) {
  const found = useSignal<Answer | null>(null);
  const failed = useSignal("");
  const prompt = weights.value?.prompt.trim() || made.ranking.prompt;
  useEffect(() => {
    if (!open.value) return undefined;
    const gone = new AbortController();
    const timer = setTimeout(() => {
      api.why(made.id, index, prompt, gone.signal).then(
        (told) => {
          found.value = told;
          failed.value = "";
          follow(told);
        },
        (error: unknown) => {
          if (error instanceof Problem) failed.value = error.message;
        },
      );
    }, SETTLE_MS);
    return () => {
      clearTimeout(timer);
      gone.abort();
    };
  }, [made.id, index, prompt, open.value]);
  useSignalEffect(() => {
    if (!open.value) sought.value = null;
  });
  const told = found.value;
  return (
    <details class="more why" open={open.value} onToggle={(e) => (open.value = e.currentTarget.open)}>
      <summary>Explanation</summary>
      {failed.value && (
        <p role="alert">
          <Prose text={failed.value} />
        </p>
      )}
      {told && (
        <>
          <table>
            <thead>
              <tr>
                <th scope="col">Phrase</th>
                <th scope="col">Cosine</th>
                <th scope="col">Of {told.of}</th>
              </tr>
            </thead>
            <tbody>
              {told.phrases.map((phrase) => (
                <Line key={`+${phrase.text}`} phrase={phrase} kind={phrase.aspect} />
              ))}
              {told.negatives.map((phrase) => (
                <Line key={`-${phrase.text}`} phrase={phrase} kind="negative" />
              ))}
            </tbody>
          </table>
          <p class="quiet">Select a phrase to see where it appears in the image.</p>
        </>
      )}
    </details>
  );
}

/** Keep the selected phrase for the next candidate. */
function follow(told: Answer): void {
  const text = sought.value?.text;
  const same = [...told.phrases, ...told.negatives].find((phrase) => phrase.text === text);
  sought.value = same ? { text: same.text, path: same.heat_map } : null;
}

function Line({ phrase, kind }: { phrase: Phrase; kind: string }) {
  const on = sought.value?.text === phrase.text;
  return (
    <tr class={kind === "negative" ? "hostile" : ""}>
      <th scope="row">
        <button type="button" class="chip" aria-pressed={on} onClick={() => (sought.value = on ? null : { text: phrase.text, path: phrase.heat_map })}>
          {phrase.text}
        </button>
        {kind !== "content" && <small>{kind}</small>}
      </th>
      <td>{written(phrase.similarity)}</td>
      <td>{ordinal(phrase.rank)}</td>
    </tr>
  );
}
