import { render } from "preact";
import { App } from "./app";
import { open } from "./state";

render(<App />, document.getElementById("studio") as HTMLElement);
void open();
