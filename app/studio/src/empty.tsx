import { useSignal } from "@preact/signals";
import { set } from "./draft";

const IDEAS = ["a red apple on a white background", "a blue boat", "a yellow duck", "a green tree at night"];

export function Empty() {
  const bars = useSignal([92, 78, 71, 64, 52, 47, 33, 21]);
  return (
    <section class="empty">
      <svg class="field" viewBox="0 0 320 148" aria-hidden="true">
        <path class="post" d="M306 0V148" />
        {bars.value.map((share, place) => (
          <rect key={share} class={`lane l${place}`} x="0" y={place * 19} width={share * 3.06} height="9" rx="4.5" />
        ))}
      </svg>
      <h1>Generate many, keep the best.</h1>
      <p>
        Describe the image. The service samples many candidates, prunes the weak ones early, and ranks the rest by CLIP
        similarity to your prompt.
      </p>
      <p class="ideas">
        <span>Try</span>
        {IDEAS.map((idea) => (
          <button key={idea} type="button" class="idea" onClick={() => set({ prompt: idea })}>
            {idea}
          </button>
        ))}
      </p>
    </section>
  );
}
