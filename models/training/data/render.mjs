// Renders named emoji of several icon sets to raw RGBA, one file per set.
// usage: node render.mjs NODE_FOLDER OUT_FOLDER SET SIZE_PX START < names.json
// Appends one record per picture to OUT/SET.rgba (SIZE*SIZE*4 bytes) and its name to OUT/SET.txt.
// The renderer can abort the whole process on a rare icon, so the caller restarts it past that name:
// the name is written to OUT/SET.now before each picture.
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";

const [nodeFolder, out, set, sizeText, startText] = process.argv.slice(2);
const size = Number(sizeText);
const require = createRequire(path.resolve(nodeFolder, "node_modules", "x.js"));
const { Resvg } = require("@resvg/resvg-js");
const icons = require(`@iconify-json/${set}/icons.json`);
// Some sets ship no code point table: there the other sets' names for the code point are tried, the label and the
// Unicode name, all also numbered, run together, or filled, as sets spell them.
const tables = [set, "noto", "twemoji", "fluent-emoji-flat"].map(tableOf);
const things = JSON.parse(fs.readFileSync(0, "utf8")); // [{name, hexcode, unicode, spelt?}]

function tableOf(name) {
  try {
    return require(`@iconify-json/${name}/chars.json`);
  } catch {
    return {};
  }
}

function slug(text) {
  return text.toLowerCase().replace(/[’'.]/g, "").replace(/[^a-z0-9]+/g, "-");
}

function iconOf({ name, hexcode, unicode, spelt: known }) {
  if (known !== undefined) return icons.icons[known];
  const code = hexcode.toLowerCase();
  const names = [...tables.map((t) => t[code] ?? t[code.replaceAll("-fe0f", "")]), slug(name), slug(unicode)];
  for (const n of names) {
    for (const spelt of n ? spellings(n) : []) {
      const found = icons.icons[spelt] ?? icons.icons[icons.aliases?.[spelt]?.parent];
      if (found) return found;
    }
  }
}

function spellings(n) {
  return [`${n}-duotone`, n, `${n}-1`, n.replaceAll("-", ""), `${n}-filled`, `${n}-fill`];
}

for (let i = Number(startText); i < things.length; i++) {
  const icon = iconOf(things[i]);
  if (!icon) continue;
  fs.writeFileSync(path.join(out, `${set}.now`), String(i));
  const w = icon.width ?? icons.width ?? 16;
  const h = icon.height ?? icons.height ?? 16;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="${icon.left ?? 0} ${icon.top ?? 0} ${w} ${h}" width="${size}" height="${size}">${icon.body}</svg>`;
  const picture = new Resvg(svg, { fitTo: { mode: "width", value: size }, font: { loadSystemFonts: false } }).render();
  if (picture.width !== size || picture.height !== size) continue;
  fs.appendFileSync(path.join(out, `${set}.rgba`), picture.pixels);
  fs.appendFileSync(path.join(out, `${set}.txt`), `${things[i].name}\n`);
}
fs.writeFileSync(path.join(out, `${set}.now`), "done");
