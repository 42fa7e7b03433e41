// A file of a data path's program, with the line that is being run.

import { useEffect, useRef, useState } from "preact/hooks";
import { get } from "../lib/api";
import type { PacketTrace, Source, SourceLine } from "../lib/types";

const read = new Map<string, Promise<Source>>();

function sourceOf(kind: PacketTrace["kind"], file: string): Promise<Source> {
  const path = `/testbed/v1/sources/${kind}?file=${encodeURIComponent(file)}`;
  const found = read.get(path) ?? get<Source>(path);
  read.set(path, found);
  found.catch(() => read.delete(path));
  return found;
}

export function SourceView({ kind, line, also }: { kind: PacketTrace["kind"]; line: SourceLine; also: SourceLine | null }) {
  const pane = useRef<HTMLPreElement>(null);
  const [source, setSource] = useState<Source | null>(null);
  useEffect(() => {
    let wanted = true;
    sourceOf(kind, line.file).then(
      (found) => wanted && setSource(found),
      () => wanted && setSource({ file: line.file, lines: [] }),
    );
    return () => {
      wanted = false;
    };
  }, [kind, line.file]);
  const ready = source?.file === line.file && source.lines.length > 0;
  useEffect(() => {
    const box = pane.current;
    const here = box?.querySelector<HTMLElement>("[aria-current]");
    if (box && here) box.scrollTop = here.offsetTop - box.clientHeight / 2;
  }, [ready, line.file, line.line]);
  return (
    <figure class="source">
      <figcaption>
        {line.file}, line {line.line}
      </figcaption>
      <pre ref={pane} tabIndex={0} aria-label={`Source ${line.file}`}>
        {ready ? (
          source.lines.map((text, n) => (
            <code
              key={n}
              data-line={n + 1}
              class={n + 1 === line.line ? "here" : also?.file === line.file && also.line === n + 1 ? "also" : ""}
              aria-current={n + 1 === line.line ? "true" : undefined}
            >
              {text || " "}
            </code>
          ))
        ) : (
          <code class="here" data-line={line.line} aria-current="true">
            {line.text}
          </code>
        )}
      </pre>
    </figure>
  );
}
