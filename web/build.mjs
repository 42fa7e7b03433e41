// Builds the page into the package, and writes down from which sources.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(fileURLToPath(import.meta.url));
const out = join(root, "../controller/web/static");

function sources(folder) {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.name !== "node_modules")
    .flatMap((entry) => (entry.isDirectory() ? sources(join(folder, entry.name)) : [join(folder, entry.name)]))
    .sort();
}

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
await build({
  absWorkingDir: root,
  entryPoints: ["src/main.tsx", "src/terminal.ts"],
  outdir: out,
  bundle: true,
  format: "esm",
  splitting: true,
  chunkNames: "part-[hash]",
  minify: true,
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "eof",
  logLevel: "warning",
});
for (const name of ["index.html", "icon.svg"]) copyFileSync(join(root, "src", name), join(out, name));

const digest = createHash("sha256");
for (const path of sources(root)) {
  digest.update(relative(root, path)).update("\0").update(readFileSync(path)).update("\0");
}
writeFileSync(join(out, "sources.sha256"), `${digest.digest("hex")}\n`);
for (const name of readdirSync(out)) {
  console.log(`${String(statSync(join(out, name)).size).padStart(8)}  ${name}`);
}
