// What happened, on a line of time that can be scrubbed: the network as it was then.

import { useMemo, useState } from "preact/hooks";
import { ago, clock } from "../lib/format";
import { pictureAt, pictureOf, TONES } from "../lib/picture";
import { useKnown } from "../lib/store";
import { EventList } from "../ui/events";
import { Badge, Card, Empty } from "../ui/parts";
import { Topology } from "../ui/topology";

export function EventsView() {
  const known = useKnown();
  const { events } = known;
  const [at, setAt] = useState<number | null>(null); // index of the last event seen; null is now
  const [kind, setKind] = useState("");
  const kinds = useMemo(() => [...new Set(events.map((event) => event.kind))].sort(), [events]);
  const now = Date.now() / 1000;
  const last = events.length - 1;
  const index = at === null ? last : Math.min(at, last);
  const time = at === null ? now : events[index]!.time;
  const picture = at === null ? pictureOf(known) : pictureAt(known, time);
  const seen = events.slice(0, index + 1).filter((event) => !kind || event.kind === kind);
  if (!events.length) return <Card title="Events"><Empty>Nothing has happened yet.</Empty></Card>;
  const go = (next: number) => setAt(next >= last ? null : Math.max(0, next));
  return (
    <div class="columns even">
      <div>
        <Card
          title={at === null ? "The network now" : `The network at ${clock(time, true)}`}
          tools={at !== null && <Badge tone="warn">{ago(now - time)} ago</Badge>}
        >
          {known.inventory && (
            <div class="scroll" tabIndex={-1}>
              <Topology inventory={known.inventory} layout={known.layout} picture={picture} />
            </div>
          )}
          <Ticks events={events} index={index} />
          <input
            class="scrub"
            type="range"
            min={0}
            max={Math.max(1, last)}
            value={index}
            aria-label="Moment"
            aria-valuetext={`${clock(events[index]!.time)}: ${events[index]!.kind} ${events[index]!.subject}`}
            onInput={(event) => go(Number(event.currentTarget.value))}
          />
          <div class="actions">
            <button type="button" onClick={() => go(index - 1)} disabled={index <= 0}>
              Step back
            </button>
            <button type="button" onClick={() => go(index + 1)} disabled={at === null}>
              Step forward
            </button>
            <button type="button" class="primary" onClick={() => setAt(null)} disabled={at === null}>
              Now
            </button>
          </div>
          {at !== null && (
            <p class="hint">As the controller's events tell; how much travelled on links is not kept.</p>
          )}
        </Card>
      </div>
      <div>
        <Card
          title={<>Events <small>{seen.length}</small></>}
          tools={
            <label class="inline">
              Kind{" "}
              <select value={kind} onChange={(event) => setKind(event.currentTarget.value)}>
                <option value="">all</option>
                {kinds.map((name) => (
                  <option key={name} value={name}>
                    {name.replaceAll("-", " ")}
                  </option>
                ))}
              </select>
            </label>
          }
        >
          <EventList events={seen} limit={300} live={at === null} />
        </Card>
      </div>
    </div>
  );
}

function Ticks({ events, index }: { events: { id: number; kind: string }[]; index: number }) {
  const shown = events.length > 400 ? events.filter((_, n) => n % Math.ceil(events.length / 400) === 0) : events;
  const place = (n: number) => (100 * n) / Math.max(1, shown.length - 1);
  return (
    <svg class="ticks" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
      {shown.map((event, n) => (
        <line key={event.id} class={TONES[event.kind] ?? ""} x1={place(n)} x2={place(n)} y1={1} y2={9} />
      ))}
      <line class="here" x1={(100 * index) / Math.max(1, events.length - 1)} x2={(100 * index) / Math.max(1, events.length - 1)} y1={0} y2={10} />
    </svg>
  );
}
