// Packets on a port: decoded as they come, or as a pcap.

import { useEffect, useRef, useState } from "preact/hooks";
import { said, stream } from "../lib/api";
import { byName } from "../lib/format";
import { mayWrite } from "../lib/store";
import { Field } from "./parts";

const KEPT = 2000;

export function Capture({ node, ports }: { node: string; ports: Record<string, string> }) {
  const names = Object.keys(ports).sort(byName);
  const [port, setPort] = useState(names[0] ?? "");
  const [seconds, setSeconds] = useState(10);
  const [lines, setLines] = useState<string[]>([]);
  const [state, setState] = useState<"" | "running" | "done" | string>("");
  const stop = useRef<AbortController | null>(null);
  useEffect(() => () => stop.current?.abort(), []);
  const path = `/testbed/v1/nodes/${node}/capture?port=${port}&seconds=${seconds}`;

  async function run() {
    stop.current?.abort();
    const own = new AbortController();
    stop.current = own;
    setLines([]);
    setState("running");
    try {
      let rest = "";
      for await (const part of stream(`${path}&decoded=true`, own.signal)) {
        const found = (rest + part).split("\n");
        rest = found.pop() ?? "";
        if (found.length) setLines((before) => [...before, ...found].slice(-KEPT));
      }
      setState("done");
    } catch (error) {
      setState(own.signal.aborted ? "done" : said(error));
    }
  }

  return (
    <>
      <div class="row">
        <Field label="Port">
          {(id) => (
            <select id={id} value={port} onChange={(event) => setPort(event.currentTarget.value)}>
              {names.map((name) => (
                <option key={name} value={name}>
                  {name} to {ports[name]}
                </option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Seconds">
          {(id) => (
            <input
              id={id}
              type="number"
              min={1}
              max={300}
              value={seconds}
              onInput={(event) => setSeconds(Math.min(300, Math.max(1, Number(event.currentTarget.value) || 1)))}
            />
          )}
        </Field>
      </div>
      <div class="actions">
        {state === "running" ? (
          <button type="button" onClick={() => stop.current?.abort()}>
            Stop
          </button>
        ) : (
          <button type="button" class="primary" disabled={!mayWrite()} onClick={() => void run()}>
            Show packets
          </button>
        )}
        {mayWrite() && (
          <a class="button" href={path} download={`${node}-${port}.pcap`}>
            Download pcap
          </a>
        )}
      </div>
      <p class="hint">Both ways, also what XDP forwards. The file comes after {seconds} s of capture.</p>
      {state && (
        <pre class="log packets" tabIndex={0} aria-label="Packets">
          {lines.join("\n") || (state === "running" ? "Waiting for packets…" : state === "done" ? "No packet came." : "")}
          {state !== "running" && state !== "done" ? `\n${state}` : ""}
        </pre>
      )}
    </>
  );
}
