// The page: a bar with the views, and the one that the address names.

import "./style.css";
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { to, useRoute } from "./lib/router";
import { begin, useKnown } from "./lib/store";
import { VIEWS } from "./views";

type Theme = "" | "light" | "dark";

function useTheme(): [Theme, (theme: Theme) => void] {
  const [theme, setTheme] = useState<Theme>(() => {
    try {
      return (localStorage.getItem("theme") as Theme | null) ?? "";
    } catch {
      return "";
    }
  });
  useEffect(() => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // Not kept, then.
    }
  }, [theme]);
  return [theme, setTheme];
}

const NEXT: Record<Theme, Theme> = { "": "dark", dark: "light", light: "" };

function App() {
  const route = useRoute();
  const known = useKnown();
  const [theme, setTheme] = useTheme();
  const view = VIEWS.find((each) => each.name === route.view) ?? VIEWS[0]!;
  useEffect(() => {
    document.title = `${view.title} – DUET${known.session?.testbed ? ` ${known.session.testbed}` : ""}`;
  }, [view, known.session]);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
        To the content
      </a>
      <header class="top">
        <a class="brand" href={to("network")}>
          <img src="/assets/icon.svg" alt="" width={24} height={24} /> DUET
          {known.session?.testbed && <small>{known.session.testbed}</small>}
        </a>
        <nav aria-label="Views">
          {VIEWS.map((each) => (
            <a key={each.name} href={to(each.name)} aria-current={each === view ? "page" : undefined}>
              {each.title}
            </a>
          ))}
        </nav>
        <div class="state">
          {known.session?.rights === "reader" && <span class="badge">reads only</span>}
          <span class={`light ${known.away ? "bad" : known.status ? "good" : ""}`} role="status">
            {known.away ? "away" : known.status ? "live" : "connecting"}
          </span>
          <button type="button" class="quiet" onClick={() => setTheme(NEXT[theme])} aria-label={`Theme: ${theme || "as the system"}`}>
            {theme === "dark" ? "☾" : theme === "light" ? "☀" : "◐"}
          </button>
        </div>
      </header>
      {known.away && (
        <p class="away" role="alert">
          {known.away}. What is shown is what was known before; it goes on by itself.
        </p>
      )}
      <main id="main" tabIndex={-1}>
        {view.draw(route)}
      </main>
    </>
  );
}

const root = document.getElementById("app")!;
root.textContent = "";
render(<App />, root);
begin();
