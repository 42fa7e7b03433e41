// A terminal in a node. What draws it is large, so it is loaded when it is first wanted.

import { useEffect, useRef, useState } from "preact/hooks";
import { said } from "../lib/api";
import { mayWrite } from "../lib/store";
import { Empty, Failure } from "./parts";

interface Module {
  open: (element: HTMLElement, node: string, ended: () => void) => Promise<() => void>;
}

export function Shell({ node }: { node: string }) {
  const element = useRef<HTMLDivElement>(null);
  const [error, setError] = useState<unknown>(null);
  const [run, setRun] = useState(0);
  const [ended, setEnded] = useState(false);
  const allowed = mayWrite();
  useEffect(() => {
    if (!allowed || !element.current) return;
    let close: (() => void) | null = null;
    let left = false;
    setEnded(false);
    const address = "/assets/terminal.js";
    void (import(address) as Promise<Module>)
      .then((module) => module.open(element.current!, node, () => setEnded(true)))
      .then((end) => {
        close = end;
        if (left) end();
      })
      .catch((thrown: unknown) => setError(new Error(said(thrown))));
    return () => {
      left = true;
      close?.();
    };
  }, [node, run, allowed]);
  if (!allowed) return <Empty>A shell needs an operator's rights.</Empty>;
  return (
    <>
      <Failure error={error} />
      <p class="hint">
        As <code>duet testbed exec {node} bash</code>. Ctrl-Shift-Esc leaves the terminal for the page.
      </p>
      <div class="shell" ref={element} />
      {ended && (
        <button type="button" onClick={() => setRun(run + 1)}>
          Open another
        </button>
      )}
    </>
  );
}
