import type { ComponentChildren } from "preact";
import type { Scored } from "./api";
import { between, parts, signed, written } from "./score";

interface Props {
  scored: Scored;
  most: number;
  negativeWeight: number;
}

const WIDTH = 1000;

function Frame({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <svg class="bar" viewBox={`0 0 ${WIDTH} 10`} preserveAspectRatio="none" role="img" aria-label={label}>
      <rect class="ground" width={WIDTH} height="10" />
      {children}
    </svg>
  );
}

/** A score as one bar: the prompt's part, minus each negative's part, plus taste. */
export function Bar({ scored, most, negativeWeight }: Props) {
  const found = parts(scored, negativeWeight);
  const at = (value: number) => (WIDTH * Math.max(0, Math.min(1, value / most)));
  let end = 0;
  const drawn = found.map((part) => {
    const from = end;
    end += part.value;
    return { ...part, from: Math.min(from, end), to: Math.max(from, end) };
  });
  return (
    <Frame label={found.map((part) => `${part.name} ${signed(part.value)}`).join(", ")}>
      {drawn.map((part, place) => (
        <rect key={place} class={part.kind} x={at(part.from)} width={Math.max(0, at(part.to) - at(part.from))} height="10">
          <title>{`${part.name} ${signed(part.value)}`}</title>
        </rect>
      ))}
    </Frame>
  );
}

/** A score of several scorers as its place between the field's lowest and highest, in deviations. */
export function PlaceBar({ score, field }: { score: number; field: number[] }) {
  return (
    <Frame label={`${written(score)} σ, between the field's lowest and highest`}>
      <rect class="similarity" width={WIDTH * between(score, field)} height="10" />
    </Frame>
  );
}
