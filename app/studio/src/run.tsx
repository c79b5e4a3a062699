import { useEffect, useMemo, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { useGlide } from "./motion";
import { progress, secondsLeft, standings, type Race, type Runner } from "./race";
import { duration, written } from "./score";
import { callOff, said } from "./state";

const TELL_MS = 4000;
const narrow = matchMedia("(max-width: 820px)");

/** A running generation: its progress, then its candidates in order. */
export function Run({ state }: { state: Race }) {
  const now = useSignal(Date.now());
  useEffect(() => {
    const timer = setInterval(() => (now.value = Date.now()), 500);
    return () => clearInterval(timer);
  }, []);
  const words = told(state, now.value);
  const spoken = useSignal(0);
  useEffect(() => {
    if (Date.now() - spoken.value < TELL_MS) return;
    spoken.value = Date.now();
    said.value = words;
  }, [words]);
  const top = useRef<HTMLElement>(null);
  useEffect(() => {
    if (narrow.matches) top.current?.scrollIntoView({ block: "start" });
  }, []);
  const order = standings(state);
  const list = useGlide<HTMLOListElement>(order.map((r) => r.index).join());
  return (
    <section class="run" aria-label="Progress" ref={top}>
      <header class="heading">
        <h1>{state.prompt}</h1>
        <button type="button" onClick={() => void callOff()}>
          Cancel
        </button>
      </header>
      <Track state={state} words={words} />
      <ol class={`runners ${density(order.length)}`} ref={list}>
        {order.map((runner, place) => (
          <RunnerCell key={runner.index} runner={runner} place={place} />
        ))}
      </ol>
    </section>
  );
}

export function density(count: number): string {
  return count > 96 ? "dense" : count > 24 ? "many" : "few";
}

function told(state: Race, now: number): string {
  if (state.waiting) return state.waiting;
  if (!state.begun) return "Queued";
  const out = state.runners.filter((r) => r.prunedAt !== null).length;
  const left = secondsLeft(state, now);
  const running = `${state.runners.length - out} running${out > 0 ? `, ${out} pruned` : ""}`;
  return progress(state) >= 1 ? `${running}, finishing` : left === null ? running : `${running}, ${duration(left)} left`;
}

function Track({ state, words }: { state: Race; words: string }) {
  const share = progress(state);
  const cuts = [...new Set(state.runners.flatMap((r) => (r.prunedAt === null ? [] : [r.prunedAt])))];
  return (
    <div class={`track ${state.waiting ? "broken" : !state.begun ? "waiting" : ""}`}>
      <progress aria-label="Completed steps" max={1} value={share} />
      <svg viewBox="0 0 1000 20" preserveAspectRatio="none" aria-hidden="true">
        <path class="ground" d="M0 10H1000" />
        <path class="run" d={`M0 10H${1000 * share}`} />
        {cuts.map((at) => (
          <path key={at} class="cut" d={`M${(1000 * at) / Math.max(1, state.steps)} 3V17`} />
        ))}
      </svg>
      <p>
        <span>{words}</span>
        <span class="numbers">{state.steps > 0 ? `step ${state.step} of ${state.steps}` : ""}</span>
      </p>
    </div>
  );
}

function RunnerCell({ runner, place }: { runner: Runner; place: number }) {
  const out = runner.prunedAt !== null;
  const name = `Candidate ${runner.index + 1}${out ? `, pruned after step ${runner.prunedAt}` : ""}`;
  const draw = () => (
    <li class={`runner ${out ? "out" : ""} ${place === 0 && runner.score !== null ? "leads" : ""}`} data-key={runner.index}>
      <div class="frame">
        {runner.image ? <img src={runner.image} alt={name} draggable={false} /> : <div class="unborn" role="img" aria-label={name} />}
      </div>
      <p class="numbers">
        <span>{out ? "out" : runner.score === null ? "" : `${place + 1}`}</span>
        <span>{runner.score === null ? "" : written(runner.score)}</span>
      </p>
    </li>
  );
  return useMemo(draw, [runner, place]);
}
