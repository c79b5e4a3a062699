// Builds dist/ (or the named folder) from src/: one script, one style sheet, fonts, and their licences.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "dist");
const used = [
  "preact",
  "@preact/signals",
  "@preact/signals-core",
  "@fontsource-variable/instrument-sans",
  "@fontsource/instrument-serif",
];

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: { studio: "src/main.tsx", style: "src/style/all.css" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  loader: { ".woff2": "file" },
  assetNames: "[name]",
  legalComments: "none",
});
for (const name of ["index.html", "icon.svg"]) cpSync(join(here, "src", name), join(out, name));
const notices = used.map((name) => `${name}\n\n${readFileSync(join(here, "node_modules", name, "LICENSE"), "utf8")}`);
writeFileSync(join(out, "NOTICE.txt"), notices.join(`\n${"-".repeat(80)}\n\n`));
