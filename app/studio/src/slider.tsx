/** A labelled range with its value. */
export function Slider(props: {
  label: string;
  value: number;
  min: number;
  max: number;
  step: number;
  show: string;
  onInput: (value: number) => void;
}) {
  return (
    <label class="slider">
      <span>
        {props.label} <b>{props.show}</b>
      </span>
      <input
        type="range"
        min={props.min}
        max={props.max}
        step={props.step}
        value={props.value}
        onInput={(e) => props.onInput(e.currentTarget.valueAsNumber)}
      />
    </label>
  );
}
