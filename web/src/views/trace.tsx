// One real packet: sent by a click, and walked through step by step, there and back.

import { useEffect, useMemo, useState } from "preact/hooks";
import { call } from "../lib/api";
import { edgeKey } from "../lib/fattree";
import { byName, isAddress } from "../lib/format";
import type { Highlight } from "../lib/highlight";
import { pictureOf } from "../lib/picture";
import type { Route } from "../lib/router";
import { type Known, useKnown } from "../lib/store";
import { type Spot, spotsOf, stepsOf, waysOf } from "../lib/tracing";
import type { Hop, Journey, PacketStep, TracedPacket } from "../lib/types";
import { Badge, Button, Card, Empty, Failure, Field } from "../ui/parts";
import { Arrival, Departure, StepView, titleOf, verdictOf } from "../ui/step";
import { Topology } from "../ui/topology";

type Protocol = "tcp" | "udp" | "icmp";
const PORTS: Record<Protocol, number> = { tcp: 80, udp: 7, icmp: 1 };

export function TraceView({ route }: { route: Route }) {
  const known = useKnown();
  const [journey, setJourney] = useState<Journey | null>(null);
  if (known.session && !known.session.testbed) {
    return (
      <Card title="One packet's way">
        <Empty>Packets are sent by a client of a testbed, and there is none at this address.</Empty>
      </Card>
    );
  }
  return (
    <>
      <Card title="One packet's way">
        <Ask known={known} route={route} found={setJourney} />
      </Card>
      {journey && <Walk key={`${journey.source_port}`} journey={journey} known={known} />}
    </>
  );
}

function Ask({ known, route, found }: { known: Known; route: Route; found: (journey: Journey | null) => void }) {
  const clients = (known.layout?.nodes ?? [])
    .filter((node) => node.kind === "client")
    .map((node) => node.name)
    .sort(byName);
  const [client, setClient] = useState("");
  const [vip, setVip] = useState(route.query.get("vip") ?? "");
  const [protocol, setProtocol] = useState<Protocol>("tcp");
  const [port, setPort] = useState("80");
  const [failure, setFailure] = useState<unknown>(null);
  const target = vip || known.vips[0]?.address || "";
  const number = Number(port);
  const wrongVip = target && !isAddress(target) ? `${target} is no IPv4 address` : undefined;
  const wrongPort = protocol !== "icmp" && !(Number.isInteger(number) && number >= 1 && number <= 65535) ? "1 to 65535" : undefined;
  return (
    <>
      <div class="row asked">
        <Field label="From">
          {(id) => (
            <select id={id} value={client || clients[0]} onChange={(event) => setClient(event.currentTarget.value)}>
              {clients.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          )}
        </Field>
        <Field label="To VIP" error={wrongVip}>
          {(id, described) => (
            <>
              <input
                id={id}
                aria-describedby={described}
                list="trace-vips"
                size={14}
                value={target}
                onInput={(event) => setVip(event.currentTarget.value.trim())}
              />
              <datalist id="trace-vips">
                {known.vips.slice(0, 200).map((one) => (
                  <option key={one.address} value={one.address}>
                    {one.name ?? ""}
                  </option>
                ))}
              </datalist>
            </>
          )}
        </Field>
        <Field label="Protocol">
          {(id) => (
            <select
              id={id}
              value={protocol}
              onChange={(event) => {
                const next = event.currentTarget.value as Protocol;
                setProtocol(next);
                setPort(String(PORTS[next]));
              }}
            >
              <option value="tcp">TCP</option>
              <option value="udp">UDP</option>
              <option value="icmp">ICMP</option>
            </select>
          )}
        </Field>
        {protocol !== "icmp" && (
          <Field label="Port" error={wrongPort}>
            {(id, described) => (
              <input id={id} aria-describedby={described} inputMode="numeric" size={6} value={port} onInput={(event) => setPort(event.currentTarget.value)} />
            )}
          </Field>
        )}
        <Button
          kind="primary"
          disabled={!clients.length || !target || Boolean(wrongVip || wrongPort)}
          failed={setFailure}
          does={async () => {
            found(null);
            found(
              await call<Journey>("POST", "/testbed/v1/traces", {
                client: client || clients[0],
                vip: target,
                protocol,
                port: protocol === "icmp" ? 1 : number,
              }),
            );
          }}
        >
          Send and trace
        </Button>
      </div>
      <Failure error={failure} />
      <p class="hint">
        A real packet, as <code>duet trace</code> sends it; every switch, SMux and server on its way tells what it does. That takes some seconds,
        as instrumented programs stand in for as long.
      </p>
    </>
  );
}

function Walk({ journey, known }: { journey: Journey; known: Known }) {
  const [all, setAll] = useState(false);
  const spots = useMemo(() => spotsOf(journey, all), [journey, all]);
  const [at, setAt] = useState(0);
  const spot: Spot = spots[at] ?? { packet: 0, hop: 0, step: -1 };
  const packet = journey.packets[spot.packet];
  const hop = packet?.hops[spot.hop];

  function jump(where: (one: Spot) => boolean) {
    const index = spots.findIndex(where);
    if (index >= 0) setAt(index);
  }
  const move = (by: number) => setAt((now) => Math.min(spots.length - 1, Math.max(0, now + by)));
  function hops(by: 1 | -1) {
    const starts = spots.flatMap((one, index) => (one.step === -1 ? [index] : []));
    const next = by > 0 ? starts.find((index) => index > at) : starts.findLast((index) => index < at);
    setAt(next ?? (by > 0 ? spots.length - 1 : 0));
  }
  useEffect(() => {
    function keyed(event: KeyboardEvent) {
      const target = event.target as HTMLElement;
      if (event.altKey || event.ctrlKey || event.metaKey || target.closest("input, select, textarea, pre")) return;
      const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
      if (by) (event.shiftKey ? hops : move)(by);
      else if (event.key === "Home") setAt(0);
      else if (event.key === "End") setAt(spots.length - 1);
      else return;
      event.preventDefault();
    }
    addEventListener("keydown", keyed);
    return () => removeEventListener("keydown", keyed);
  });

  if (!packet || !hop) {
    return (
      <Card title={journey.answer}>
        <Empty>No device has seen a packet of it.</Empty>
        <Notes journey={journey} />
      </Card>
    );
  }
  const highlight: Highlight = {
    carriers: new Map(packet.hops.map((one) => [one.node, "the packet"])),
    servers: new Map(),
    flows: new Map(waysOf(packet).map((way) => way.split(">") as [string, string]).map(([from, to]) => [edgeKey(from, to), 1e7])),
  };
  return (
    <div class="columns even walk">
      <div>
        <Card
          title={
            <>
              {journey.source}:{journey.source_port} to {journey.vip} <small>{journey.answer}</small>
            </>
          }
        >
          <Packets packets={journey.packets} now={spot.packet} choose={(n) => jump((one) => one.packet === n)} />
          {known.inventory && (
            <div class="scroll" tabIndex={-1}>
              <Topology inventory={known.inventory} layout={known.layout} picture={pictureOf(known)} selected={hop.node} highlight={highlight} />
            </div>
          )}
          <Way packet={packet} now={spot.hop} choose={(n) => jump((one) => one.packet === spot.packet && one.hop === n)} />
          <label class="inline check">
            <input type="checkbox" checked={all} onChange={(event) => (setAll(event.currentTarget.checked), setAt(0))} /> Stop at conditions that do not hold,
            too
          </label>
          <Notes journey={journey} />
        </Card>
      </div>
      <div>
        <Card
          class="step"
          title={
            <>
              {hop.node} <small>{packet.back ? "on the way back" : "on the way there"}</small>
            </>
          }
          tools={
            <div class="stepping">
              <button type="button" onClick={() => hops(-1)} aria-label="Back to the node before" title="Shift and left arrow">
                «
              </button>
              <button type="button" onClick={() => move(-1)} disabled={at === 0} title="Left arrow">
                Back
              </button>
              <span role="status">
                {at + 1} of {spots.length}
              </span>
              <button type="button" class="primary" onClick={() => move(1)} disabled={at === spots.length - 1} title="Right arrow">
                Step
              </button>
              <button type="button" onClick={() => hops(1)} aria-label="On to the next node" title="Shift and right arrow">
                »
              </button>
            </div>
          }
        >
          <Place hop={hop} spot={spot} steps={stepsOf(hop.trace, all)} choose={(n) => jump((one) => one.packet === spot.packet && one.hop === spot.hop && one.step === n)} />
        </Card>
      </div>
    </div>
  );
}

function Notes({ journey }: { journey: Journey }) {
  return (
    <>
      {journey.untraced.map((line) => (
        <p key={line} class="hint">
          Not traced: {line}
        </p>
      ))}
      {journey.lost_records > 0 && <p class="bad">{journey.lost_records} records had no room: steps may be missing.</p>}
    </>
  );
}

function Packets({ packets, now, choose }: { packets: TracedPacket[]; now: number; choose: (index: number) => void }) {
  return (
    <ol class="packets" aria-label="Packets">
      {packets.map((packet, n) => (
        <li key={n}>
          <button type="button" aria-pressed={n === now} onClick={() => choose(n)}>
            <span aria-hidden="true">{packet.back ? "←" : "→"}</span> {packet.what} <span class="visually-hidden">{packet.back ? "back" : "there"}</span>
            {packet.lost && <Badge tone="bad">lost</Badge>}
          </button>
        </li>
      ))}
    </ol>
  );
}

function Way({ packet, now, choose }: { packet: TracedPacket; now: number; choose: (index: number) => void }) {
  return (
    <ol class="way" aria-label="Nodes on its way">
      {packet.hops.map((hop, n) => (
        <li key={n}>
          <button type="button" aria-pressed={n === now} onClick={() => choose(n)}>
            {hop.node}
          </button>
          {hop.trace?.verdict === "dropped" && <Badge tone="bad">dropped</Badge>}
        </li>
      ))}
    </ol>
  );
}

function Place({ hop, spot, steps, choose }: { hop: Hop; spot: Spot; steps: PacketStep[]; choose: (step: number) => void }) {
  const step = steps[spot.step];
  const rows: [number, string][] = [[-1, "arrival"], ...steps.map((one, n): [number, string] => [n, titleOf(one)])];
  if (hop.trace) rows.push([steps.length, "departure"]);
  return (
    <div class="place">
      <ol class="steps" aria-label={`Steps in ${hop.node}`}>
        {rows.map(([n, title]) => (
          <li key={n} class={steps[n]?.kind === "branch" && !steps[n]?.taken ? "soft" : ""}>
            <button type="button" title={title} aria-current={n === spot.step ? "step" : undefined} onClick={() => choose(n)}>
              <span class="cut">{title.replace(/^\w+\.(\w+\.)*/, "")}</span> {steps[n] && verdictOf(steps[n])}
            </button>
          </li>
        ))}
      </ol>
      <div class="told" aria-live="polite">
        {spot.step < 0 ? <Arrival hop={hop} /> : step && hop.trace ? <StepView trace={hop.trace} step={step} /> : <Departure hop={hop} />}
      </div>
    </div>
  );
}
