import { useSignal } from "@preact/signals";
import { picture, type Reference } from "./api";
import { Picture } from "./picture";
import { known, small } from "./reference";
import { signed } from "./score";
import { focus, limits, shown, tell } from "./state";

interface Props {
  label: string;
  list: Reference[];
  onChange: (list: Reference[]) => void;
}

const WEIGHT = 0.5;
const MOST = 1.5;

/** Reference images, avoided with a weight below 0: uploads, and candidates of any generation. */
export function References({ label, list, onChange }: Props) {
  const over = useSignal(false);
  const most = limits.value?.references ?? 8;
  const put = (next: Reference[]) => onChange(next.filter(known));
  const upload = async (files: Iterable<File>) => {
    try {
      const made = await Promise.all([...files].slice(0, most - list.length).map(small));
      put([...list, ...made.map((image) => ({ image, generation: null, index: null, weight: WEIGHT }))]);
    } catch (error) {
      tell(error);
    }
  };
  const onDrop = (event: DragEvent) => {
    event.preventDefault();
    over.value = false;
    void upload(event.dataTransfer?.files ?? []);
  };
  const made = shown.value;
  const index = focus.value;
  const here = list.some((one) => one.generation === made?.id && one.index === index);
  return (
    <fieldset
      class={`references ${over.value ? "over" : ""}`}
      onDragOver={(e) => {
        e.preventDefault();
        over.value = true;
      }}
      onDragLeave={() => (over.value = false)}
      onDrop={onDrop}
    >
      <legend class={list.length === 0 ? "unseen" : ""}>{label}</legend>
      {list.map((one, place) => (
        <Row
          key={place}
          one={one}
          place={place}
          onWeight={(weight) => put(list.map((other, at) => (at === place ? { ...other, weight } : other)))}
          onRemove={() => put(list.filter((_, at) => at !== place))}
        />
      ))}
      {list.some((one) => !known(one)) && (
        <p class="quiet">Uploads are not stored. Changing the references drops them: add them again.</p>
      )}
      {list.length < most && (
        <div class="adding">
          <label class="add file">
            Add a reference image
            <input
              type="file"
              class="unseen"
              accept="image/*"
              multiple
              onChange={(e) => {
                void upload(e.currentTarget.files ?? []);
                e.currentTarget.value = "";
              }}
            />
          </label>
          {made && index !== null && !here && (
            <button
              type="button"
              class="add"
              onClick={() => put([...list, { image: null, generation: made.id, index, weight: WEIGHT }])}
            >
              Add candidate {index + 1} as a reference
            </button>
          )}
        </div>
      )}
    </fieldset>
  );
}

interface RowProps {
  one: Reference;
  place: number;
  onWeight: (weight: number) => void;
  onRemove: () => void;
}

function Row({ one, place, onWeight, onRemove }: RowProps) {
  const name = `Reference ${place + 1}`;
  return (
    <div class="reference">
      <Thumb one={one} name={name} />
      <label class="slider">
        <span>
          {one.weight < 0 ? "unlike" : "like"} <b>{signed(one.weight, 2)}</b>
        </span>
        <input
          type="range"
          aria-label={`Weight of reference ${place + 1}`}
          min={-MOST}
          max={MOST}
          step={0.05}
          value={one.weight}
          disabled={!known(one)}
          onInput={(e) => onWeight(e.currentTarget.valueAsNumber || 0.05)}
        />
      </label>
      <button type="button" class="plain" aria-label={`Remove reference ${place + 1}`} onClick={onRemove}>
        ×
      </button>
    </div>
  );
}

function Thumb({ one, name }: { one: Reference; name: string }) {
  if (one.image !== null) return <img src={one.image} alt={`${name}, an upload`} />;
  if (one.generation === null || one.index === null) return <span class="unborn" role="img" aria-label={`${name}, an earlier upload`} />;
  return <Picture path={picture(one.generation, one.index)} alt={`${name}, candidate ${one.index + 1}`} />;
}
