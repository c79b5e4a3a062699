import { Compare } from "./compare";
import { Composer } from "./composer";
import { Empty } from "./empty";
import { Gate, InUse } from "./gate";
import { History } from "./history";
import { shut } from "./key";
import { Prose } from "./prose";
import { race } from "./race";
import { Run } from "./run";
import { board, problem, said, shown } from "./state";
import { Taste } from "./taste";
import { Wall } from "./wall";

export function App() {
  return (
    <div class="page">
      <aside class="rail">
        <header class="masthead">
          <a href="." class="wordmark">
            <svg viewBox="0 0 28 22" aria-hidden="true">
              <path class="lane one" d="M2 4h24" />
              <path class="lane two" d="M2 11h15" />
              <path class="lane three" d="M2 18h9" />
            </svg>
            Frontrunner
          </a>
        </header>
        <Composer />
        <Taste />
        <History />
        <InUse />
      </aside>
      <main class="stage">
        <Trouble />
        {shut.value !== null ? (
          <Gate why={shut.value} />
        ) : race.value ? (
          <Run state={race.value} />
        ) : shown.value && board.value ? (
          <Wall />
        ) : (
          <Empty />
        )}
      </main>
      <Compare />
      <p class="unseen" role="status" aria-live="polite">
        {said.value}
      </p>
    </div>
  );
}

function Trouble() {
  const found = problem.value;
  if (!found || found.status === 401) return null;
  return (
    <div class="trouble" role="alert">
      <div>
        <p>
          <Prose text={found.message} />
        </p>
        {found.details.length > 0 && (
          <ul>
            {found.details.map((detail) => (
              <li key={detail}>
                <Prose text={detail} />
              </li>
            ))}
          </ul>
        )}
        {found.retryS !== null && <p class="quiet">Retry in {found.retryS} s.</p>}
      </div>
      <button type="button" class="plain" onClick={() => (problem.value = null)} aria-label="Dismiss the error">
        ×
      </button>
    </div>
  );
}
