// The living data centre: everything at a glance, and what is selected beside it.

import { useState } from "preact/hooks";
import { count, percent, rate } from "../lib/format";
import { pictureOf } from "../lib/picture";
import { go, to, type Route } from "../lib/router";
import { type Known, useKnown } from "../lib/store";
import { useHighlight } from "../lib/record";
import { EventList } from "../ui/events";
import { Badge, Card } from "../ui/parts";
import { LOADED_BPS, Topology } from "../ui/topology";
import { LinkPanel } from "./link";
import { NodePanel } from "./node";

export function NetworkView({ route }: { route: Route }) {
  const known = useKnown();
  const [what, name] = route.rest;
  const [vip, setVip] = useState("");
  const highlight = useHighlight(vip, known);
  if (!known.inventory) return <p class="loading">Looking at the network…</p>;
  return (
    <div class="network">
      <div class="stage">
        <Glance known={known} />
        <Card
          class="drawing"
          title="Network"
          tools={
            <label class="inline">
              Follow a VIP{" "}
              <select value={vip} onChange={(event) => setVip(event.currentTarget.value)}>
                <option value="">none: all links</option>
                {known.vips.slice(0, 500).map((line) => (
                  <option key={line.address} value={line.address}>
                    {line.address} {line.name ?? ""}
                  </option>
                ))}
              </select>
            </label>
          }
        >
          <div class="scroll" tabIndex={-1}>
            <Topology
              inventory={known.inventory}
              layout={known.layout}
              picture={pictureOf(known)}
              selected={name}
              highlight={highlight}
            />
          </div>
          <Legend following={Boolean(vip)} />
        </Card>
        <Card title="Events" tools={<a href={to("events")}>Timeline</a>}>
          <EventList events={known.events} limit={8} live />
        </Card>
      </div>
      {name && what === "node" && <NodePanel key={name} name={name} close={() => go("network")} />}
      {name && what === "link" && <LinkPanel key={name} name={name} close={() => go("network")} />}
    </div>
  );
}

function Glance({ known }: { known: Known }) {
  const { status, agents, links, muxes, traffic } = known;
  if (!status) return null;
  const reach = [...agents.values()];
  const bad = reach.filter((agent) => agent.reach !== "ready");
  const sessions = [...muxes.values()].flatMap((mux) => mux.sessions);
  const down = links.filter((link) => link.up === false);
  const unwatched = sessions.filter((session) => session.bfd && session.bfd !== "Up");
  const measured = traffic.reduce((sum, sample) => sum + sample.bps, 0);
  return (
    <dl class="glance">
      <div>
        <dt>VIPs</dt>
        <dd>
          {count(status.vips)}
          <small>
            {count(known.vips.filter((vip) => vip.switch).length)} on HMuxes
          </small>
        </dd>
      </div>
      <div>
        <dt>Agents</dt>
        <dd>
          {reach.length - bad.length}/{reach.length}
          <small>{bad.length ? `${bad[0]!.name} ${bad[0]!.reach}${bad.length > 1 ? `, ${bad.length - 1} more` : ""}` : "all ready"}</small>
        </dd>
      </div>
      <div>
        <dt>BGP sessions</dt>
        <dd>
          {sessions.filter((session) => session.established).length}/{sessions.length}
          <small>
            {down.length ? `${down.length} links down` : "all links up"}
            {unwatched.length ? `, ${unwatched.length} BFD down` : ""}
          </small>
        </dd>
      </div>
      <div>
        <dt>DIPs out of service</dt>
        <dd>
          {status.dips_down.length}
          <small>{status.cut_off.length ? `${status.cut_off.length} servers cut off` : "no server cut off"}</small>
        </dd>
      </div>
      <div>
        <dt>Traffic of VIPs</dt>
        <dd>
          {rate(measured)}
          <small>{hmuxShare(known, measured)}</small>
        </dd>
      </div>
      {Object.keys(status.waiting).length > 0 && (
        <p class="note">
          {Object.entries(status.waiting)
            .slice(0, 3)
            .map(([address, home]) => (
              <Badge key={address} tone="warn">
                {address} waits for {home}
              </Badge>
            ))}
        </p>
      )}
      {status.suspect && (
        <p class="note">
          <Badge tone="warn">nothing is taken for lost: {status.suspect}</Badge>
        </p>
      )}
    </dl>
  );
}

function hmuxShare(known: Known, measured: number): string {
  if (measured <= 0) return "of the last 20 s";
  const home = new Map(known.vips.map((vip) => [vip.address, vip.switch]));
  const carried = known.traffic.reduce((sum, s) => sum + (home.get(s.vip) ? s.bps : 0), 0);
  return `${percent(carried / measured)} of it by HMuxes`;
}

function Legend({ following }: { following: boolean }) {
  return (
    <ul class="legend">
      <li>
        <i class="dot ready" /> ready
      </li>
      <li>
        <i class="dot unwell" /> unwell, draining
      </li>
      <li>
        <i class="dot lost" /> does not answer, lost
      </li>
      <li>
        <i class="stroke flow" /> {following ? "traffic of the VIP" : `traffic, by the ports' counters, from ${rate(LOADED_BPS)} on`}
      </li>
      <li>
        <i class="stroke down" /> link down
      </li>
      <li>
        <i class="dot server" /> server with DIPs
      </li>
    </ul>
  );
}
