import { useSignal } from "@preact/signals";
import { Problem, type Generation } from "./api";
import { asCurl, asPython, whole } from "./copying";
import { said, tell } from "./state";

const SHOWN_MS = 2000;

interface Props {
  made: Generation;
}

/** Copies the request on the page as a shell command or a program. */
export function Copy({ made }: Props) {
  const done = useSignal("");
  const copy = async (name: string, text: string) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      tell(new Problem("The browser denies access to the clipboard. Allow it for this page.", 0));
      return;
    }
    said.value = whole(made) ? `Copied as ${name}.` : `Copied as ${name}, without the uploaded images.`;
    done.value = name;
    setTimeout(() => (done.value = ""), SHOWN_MS);
  };
  return (
    <div class="copy" role="group" aria-label="Copy the request">
      <button type="button" onClick={() => void copy("curl", asCurl(made, document.baseURI))}>
        {done.value === "curl" ? "Copied ✓" : "Copy as curl"}
      </button>
      <button type="button" onClick={() => void copy("Python", asPython(made, document.baseURI))}>
        {done.value === "Python" ? "Copied ✓" : "Python"}
      </button>
    </div>
  );
}
