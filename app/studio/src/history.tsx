import { useSignal } from "@preact/signals";
import { picture } from "./api";
import { entries, trees, type Branch } from "./kept";
import { Picture } from "./picture";
import { forget, leave, shown } from "./state";

const FIRST = 12;

/** The generations of this browser as trees; refined and re-ranked ones are below their parent. */
export function History() {
  const all = useSignal(false);
  const roots = trees(entries.value);
  if (roots.length === 0) return null;
  const drawn = all.value ? roots : roots.slice(0, FIRST);
  return (
    <nav class="history" aria-label="History">
      <header>
        <h2>History</h2>
        <a href="#" onClick={leave}>
          New
        </a>
      </header>
      <Level branches={drawn} />
      {roots.length > drawn.length && (
        <button type="button" class="add" onClick={() => (all.value = true)}>
          {roots.length - drawn.length} more
        </button>
      )}
    </nav>
  );
}

function Level({ branches }: { branches: Branch[] }) {
  return (
    <ul>
      {branches.map((branch) => (
        <li key={branch.entry.id}>
          <Leaf branch={branch} />
          {branch.children.length > 0 && <Level branches={branch.children} />}
        </li>
      ))}
    </ul>
  );
}

const KINDS = { generation: "", rerank: "re-ranked", refine: "refined" };

function Leaf({ branch: { entry } }: { branch: Branch }) {
  const image = entry.picked ?? entry.best;
  const here = shown.value?.id === entry.id;
  return (
    <div class="leaf">
      <a href={`#${entry.id}`} aria-current={here ? "page" : undefined}>
        {image !== null ? <Picture path={picture(entry.id, image)} alt="" lazy /> : <span class="unborn" />}
        <span class="label">
          <span>{entry.prompt}</span>
          {entry.kind !== "generation" && <small>{KINDS[entry.kind]}</small>}
        </span>
      </a>
      <button type="button" class="plain" aria-label={`Delete ${entry.prompt}`} title="Delete" onClick={() => void forget(entry.id)}>
        ×
      </button>
    </div>
  );
}
