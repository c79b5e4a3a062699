/** A text of the service, with what stands between backticks as code. */
export function Prose({ text }: { text: string }) {
  return <>{text.split(/`([^`]+)`/).map((part, place) => (place % 2 === 1 ? <code key={place}>{part}</code> : part))}</>;
}
