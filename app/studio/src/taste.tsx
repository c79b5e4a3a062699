import { useSignal } from "@preact/signals";
import { api } from "./api";
import { draft } from "./draft";
import { profile, voted } from "./kept";
import { bringIn, carryOut, tasted, turnTo, unlearn } from "./liking";
import { guarded } from "./state";

const NAME = "[A-Za-z0-9][A-Za-z0-9_.\\-]{0,63}";

/** The taste profile: its name, summary, import, export, and use in new generations. */
export function Taste() {
  const names = useSignal<string[]>([]);
  const load = async () => {
    names.value = (await guarded(api.profiles()))?.data ?? [];
    await turnTo(profile.value, names.value);
  };
  const choose = (input: HTMLInputElement) => {
    if (input.reportValidity() && input.value !== profile.value) void turnTo(input.value, names.value);
  };
  const some = voted.value > 0;
  return (
    <details class="more taste" onToggle={(e) => e.currentTarget.open && void load()}>
      <summary>
        Taste <span class="quiet">{voted.value === 0 ? "no votes yet" : voted.value === 1 ? "1 vote" : `${voted.value} votes`}</span>
      </summary>
      <div class="body">
        <label class="field">
          <span>Profile</span>
          <input
            type="text"
            list="profiles"
            required
            pattern={NAME}
            title="Letters, digits, dots, dashes and underscores; at most 64"
            value={profile.value}
            onChange={(e) => choose(e.currentTarget)}
          />
          <datalist id="profiles">
            {names.value.map((name) => (
              <option key={name} value={name} />
            ))}
          </datalist>
        </label>
        <p class="quiet">{some ? told() : "Like or dislike candidates to train this profile."}</p>
        {some && (
          <label class="check">
            <input
              type="checkbox"
              checked={draft.value.taste}
              onChange={(e) => (draft.value = { ...draft.value, taste: e.currentTarget.checked })}
            />
            Use it in new generations
          </label>
        )}
        <div class="adding">
          {some && (
            <button type="button" class="add" onClick={() => void carryOut()}>
              Export
            </button>
          )}
          <label class="add file">
            Import
            <input
              type="file"
              class="unseen"
              accept=".json,application/json"
              onChange={(e) => {
                const [file] = e.currentTarget.files ?? [];
                if (file) void bringIn(file);
                e.currentTarget.value = "";
              }}
            />
          </label>
          {some && (
            <button type="button" class="add" onClick={() => void unlearn()}>
              Delete
            </button>
          )}
        </div>
      </div>
    </details>
  );
}

function told(): string {
  const known = tasted.value;
  if (!known) return "";
  const counts = [
    [known.liked, "liked"],
    [known.disliked, "disliked"],
    [known.preferred, "preferred"],
  ] as const;
  const votes = counts.flatMap(([count, name]) => (count > 0 ? [`${count} ${name}`] : [])).join(", ");
  return `${votes}; the model agrees with ${Math.round(100 * known.agreement)} % of them.`;
}
