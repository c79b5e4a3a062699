import { Problem, type Generation } from "./api";
import { asCurl, asPython } from "./copying";
import { said, tell } from "./state";

async function copied(text: string, name: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    said.value = `Copied as ${name}.`;
  } catch {
    tell(new Problem("The browser does not let this page copy.", 0));
  }
}

export function Copy({ made }: { made: Generation }) {
  return (
    <div class="copy" role="group" aria-label="Copy the request">
      <button type="button" onClick={() => void copied(asCurl(made, location.origin), "curl")}>
        Copy as curl
      </button>
      <button type="button" onClick={() => void copied(asPython(made, location.origin), "Python")}>
        Python
      </button>
    </div>
  );
}
