// Events in a list, the newest first.

import { clock, detail } from "../lib/format";
import { TONES } from "../lib/picture";
import { to } from "../lib/router";
import type { DuetEvent } from "../lib/types";
import { Empty } from "./parts";

function subject(event: DuetEvent) {
  const { subject: name, kind } = event;
  if (/^\d+\.\d+\.\d+\.\d+$/.test(name)) {
    const vip = kind.startsWith("dip-") ? String(event.detail.vip ?? "") : name;
    return vip ? <a href={to("vips", vip)}>{name}</a> : name;
  }
  if (kind.startsWith("link-")) return <a href={to("network", "link", name)}>{name}</a>;
  const after = kind === "stated" ? Object.keys(event.detail.after as object) : [];
  if (after.includes("failed") && name.includes("-")) return <a href={to("network", "link", name)}>{name}</a>;
  if (/^(device|server|node)-/.test(kind) || after.includes("failed") || after.includes("draining")) return <a href={to("network", "node", name)}>{name}</a>;
  return name;
}

export function EventList(props: { events: DuetEvent[]; limit?: number; live?: boolean }) {
  const { events, limit = 200, live = false } = props;
  const shown = events.slice(-limit).reverse();
  if (!shown.length) return <Empty>Nothing has happened.</Empty>;
  return (
    <ol class="events" aria-live={live ? "polite" : "off"}>
      {shown.map((event) => (
        <li key={event.id} class={TONES[event.kind] ?? ""}>
          <time dateTime={new Date(event.time * 1000).toISOString()}>{clock(event.time, true)}</time>
          <span class="kind">{event.kind.replaceAll("-", " ")}</span>
          <span class="subject">{subject(event)}</span>
          <span class="detail">{detail(event.detail)}</span>
        </li>
      ))}
    </ol>
  );
}
