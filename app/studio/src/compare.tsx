import { useEffect, useRef } from "preact/hooks";
import { picture } from "./api";
import { Account } from "./inspector";
import { prefer } from "./liking";
import { Picture } from "./picture";
import { reach } from "./score";
import { board, comparing, pair, shown, weights } from "./state";

/** Two candidates side by side. */
export function Compare() {
  const dialog = useRef<HTMLDialogElement>(null);
  const open = comparing.value;
  useEffect(() => {
    if (open) dialog.current?.showModal();
    else dialog.current?.close();
  }, [open]);
  const made = shown.value;
  const two = pair.value.flatMap((index) => board.value?.data.filter((r) => r.index === index) ?? []);
  const close = () => {
    comparing.value = false;
    pair.value = [];
  };
  return (
    <dialog ref={dialog} class="compare" aria-label="Compare two candidates" onClose={close}>
      <header class="heading">
        <h2>Side by side</h2>
        <button type="button" onClick={close}>
          Close
        </button>
      </header>
      <div class="two">
        {made &&
          two.map((one, place) => {
            const other = two[1 - place];
            return (
              <article key={one.index} class={one.rank < (other?.rank ?? 0) ? "ahead" : ""}>
                <Picture path={picture(made.id, one.index)} alt={`Candidate ${one.index + 1}`} />
                <h3>
                  No. {one.rank} <span class="quiet">candidate {one.index + 1}</span>
                </h3>
                <Account one={one} most={reach(two, weights.value?.negativeWeight ?? 0)} />
                {other && (
                  <button type="button" onClick={() => void prefer(one.index, other.index)}>
                    Prefer this one
                  </button>
                )}
              </article>
            );
          })}
      </div>
    </dialog>
  );
}
