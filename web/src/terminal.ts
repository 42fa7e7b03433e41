import "@xterm/xterm/css/xterm.css";
// A terminal in the browser, and the shell in a node that it talks to.

import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import { call, events } from "./lib/api";

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

async function styles() {
  if (document.querySelector("link[data-terminal]")) return;
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = "/assets/terminal.css";
  link.dataset.terminal = "";
  const loaded = new Promise((resolve) => link.addEventListener("load", resolve));
  document.head.append(link);
  await loaded;
}

/** Opens a shell in `node` on `element`; returns what closes it. `ended` is called when it ends by itself. */
export async function open(element: HTMLElement, node: string, ended: () => void): Promise<() => void> {
  await styles();
  const { shell } = await call<{ shell: number }>("POST", `/testbed/v1/nodes/${node}/shells`);
  const path = `/testbed/v1/shells/${shell}`;
  const terminal = new Terminal({
    fontFamily: "ui-monospace, 'DejaVu Sans Mono', monospace",
    fontSize: 13,
    cursorBlink: false,
    screenReaderMode: true,
    theme: { background: colour("--code"), foreground: colour("--text"), cursor: colour("--accent"), selectionBackground: "#6ab7c955" },
  });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  terminal.open(element);
  terminal.attachCustomKeyEventHandler((event) => {
    if (event.key === "Escape" && event.ctrlKey && event.shiftKey) {
      terminal.blur();
      return false;
    }
    return true;
  });
  let typing = Promise.resolve();
  terminal.onData((data) => {
    // In order: each waits for the one before it.
    typing = typing.then(() => call<void>("POST", `${path}/input`, { data })).catch(() => undefined);
  });
  const size = () => {
    fit.fit();
    void call("POST", `${path}/size`, { columns: terminal.cols, rows: terminal.rows }).catch(() => undefined);
  };
  const watch = new ResizeObserver(size);
  watch.observe(element);
  const stop = new AbortController();
  void (async () => {
    try {
      for await (const one of events(`${path}/output`, stop.signal)) {
        if (one?.event === "end") break;
        if (one?.data) terminal.write(Uint8Array.from(atob(one.data), (char) => char.charCodeAt(0)));
      }
    } catch {
      // Said below, like any other end.
    }
    if (!stop.signal.aborted) {
      terminal.write("\r\n[the shell has ended]\r\n");
      ended();
    }
  })();
  terminal.focus();
  return () => {
    stop.abort();
    watch.disconnect();
    terminal.dispose();
    void call("DELETE", path).catch(() => undefined);
  };
}
