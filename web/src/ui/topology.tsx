// The FatTree as people draw it, with what is so now (or was then).

import { useMemo } from "preact/hooks";
import { draw, edgeKey, type Place } from "../lib/fattree";
import { rate } from "../lib/format";
import type { Highlight } from "../lib/highlight";
import { to } from "../lib/router";
import type { Inventory, Layout, LinkState, Reach } from "../lib/types";

/** What is drawn: the state of everything at one time. */
export interface Picture {
  reach: Map<string, Reach>;
  links: Map<string, LinkState>;
  failed: Set<string>;
  cutOff: Set<string>;
  draining: Set<string>;
  vipsOn: Map<string, number>;
}

interface Props {
  inventory: Inventory;
  layout: Layout | null;
  picture: Picture;
  selected?: string | undefined;
  highlight?: Highlight | null;
}

/**
 * From how much on a link is drawn as one with traffic. Neighbours that ask each other every 50 ms whether they forward
 * make 16 kbit/s each way, 40 in doubt, and BFD and BGP 1 or 2: an idle network is still.
 */
export const LOADED_BPS = 50_000;
const WORDS: Record<Reach, string> = {
  unknown: "not asked yet",
  ready: "ready",
  unwell: "unwell",
  unreachable: "does not answer",
  lost: "lost",
};

const width = (bps: number) => 1.25 + Math.max(0, Math.log10(bps) - 3) * 0.75;
const pace = (bps: number) => `${Math.max(0.5, 3.2 - Math.max(0, Math.log10(bps) - 3) * 0.5).toFixed(2)}s`;

export function linkOf(links: Map<string, LinkState>, one: string, other: string): LinkState | undefined {
  return links.get(`${one}-${other}`) ?? links.get(`${other}-${one}`);
}

export function Topology({ inventory, layout, picture, selected, highlight }: Props) {
  const drawing = useMemo(() => draw(inventory, layout), [inventory, layout]);
  const flows = highlight ? highlight.flows : loads(picture.links);
  return (
    <svg
      class="topology"
      viewBox={`-6 0 ${drawing.width + 12} ${drawing.height}`}
      style={{ minWidth: `${Math.min(drawing.width, 480)}px` }}
      role="group"
      aria-label="The network: Cores, containers of Aggs and ToRs, and their hosts"
    >
      {drawing.containers.map((box) => (
        <rect key={box.number} class="container" x={box.x} y={box.y} width={box.width} height={box.height} rx={10} />
      ))}
      <g>
        {drawing.edges.map(([one, other]) => (
          <Edge
            key={edgeKey(one, other)}
            from={drawing.places.get(one)}
            to={drawing.places.get(other)}
            link={linkOf(picture.links, one, other)}
            failed={picture.failed.has(`${one}-${other}`) || picture.failed.has(`${other}-${one}`)}
            flows={flows}
            faded={Boolean(highlight)}
            selected={selected === `${one}-${other}` || selected === `${other}-${one}`}
          />
        ))}
      </g>
      {drawing.containers.map((box) => (
        <text key={box.number} class="caption" x={box.x + 12} y={box.y + 19}>
          Container {box.number}
        </text>
      ))}
      {[...drawing.places.values()].map((place) => (
        <NodeMark
          key={place.name}
          place={place}
          reach={picture.failed.has(place.name) ? "lost" : picture.reach.get(place.name)}
          failed={picture.failed.has(place.name)}
          cutOff={picture.cutOff.has(place.name)}
          draining={picture.draining.has(place.name)}
          vips={picture.vipsOn.get(place.name) ?? 0}
          selected={selected === place.name}
          carries={highlight?.carriers.get(place.name)}
          serves={highlight?.servers.get(place.name)}
          faded={Boolean(highlight)}
        />
      ))}
    </svg>
  );
}

function loads(links: Map<string, LinkState>): Map<string, number> {
  const found = new Map<string, number>();
  for (const { ends, bps } of links.values()) {
    if (bps[0] >= LOADED_BPS) found.set(edgeKey(ends[0], ends[1]), bps[0]);
    if (bps[1] >= LOADED_BPS) found.set(edgeKey(ends[1], ends[0]), bps[1]);
  }
  return found;
}

function Edge(props: {
  from: Place | undefined;
  to: Place | undefined;
  link: LinkState | undefined;
  failed: boolean;
  flows: Map<string, number>;
  faded: boolean;
  selected: boolean;
}) {
  const { from, to: end, link, failed, flows, faded, selected } = props;
  if (!from || !end) return null;
  const forth = flows.get(edgeKey(from.name, end.name)) ?? 0;
  const back = flows.get(edgeKey(end.name, from.name)) ?? 0;
  const toServer = end.kind === "server";
  if (toServer && !forth && !back) return null;
  const down = failed || link?.up === false;
  const name = `${from.name}-${end.name}`;
  const length = Math.hypot(end.x - from.x, end.y - from.y) || 1;
  const side = forth && back ? 2.2 : 0;
  const [dx, dy] = [((end.y - from.y) / length) * side, (-(end.x - from.x) / length) * side];
  const line = (shift: number) => ({
    x1: from.x + dx * shift,
    y1: from.y + dy * shift,
    x2: end.x + dx * shift,
    y2: end.y + dy * shift,
  });
  const words = down ? "down" : link ? `${rate(link.bps[0])} there, ${rate(link.bps[1])} back` : "";
  return (
    <a href={to("network", "link", name)} tabIndex={-1} aria-label={`link ${from.name} to ${end.name}, ${words}`}>
      <title>{`${from.name} – ${end.name}${words ? `: ${words}` : ""}`}</title>
      <line class="reach" {...line(0)} />
      <line class={`link${down ? " down" : ""}${faded ? " faded" : ""}${selected ? " selected" : ""}`} {...line(0)} />
      {!down && forth > 0 && (
        <line class="flow" {...line(1)} style={{ strokeWidth: width(forth), animationDuration: pace(forth) }} />
      )}
      {!down && back > 0 && (
        <line class="flow back" {...line(-1)} style={{ strokeWidth: width(back), animationDuration: pace(back) }} />
      )}
    </a>
  );
}

interface MarkProps {
  place: Place;
  reach: Reach | undefined;
  failed: boolean;
  cutOff: boolean;
  draining: boolean;
  vips: number;
  selected: boolean;
  carries: string | undefined;
  serves: "serving" | "out" | undefined;
  faded: boolean;
}

function NodeMark({ place, reach, failed, cutOff, draining, vips, selected, carries, serves, faded }: MarkProps) {
  const words = [
    place.name,
    failed ? "has failed" : reach ? WORDS[reach] : "",
    cutOff ? "cut off" : "",
    draining ? "draining" : "",
    carries ? `carries ${carries}` : "",
    serves ? (serves === "out" ? "its DIP is out of service" : "serves this VIP") : "",
    vips ? `${vips} ${vips === 1 ? "VIP or TIP" : "VIPs and TIPs"}` : "",
  ]
    .filter(Boolean)
    .join(", ");
  const quiet = faded && !carries && !serves;
  const classes = [
    "node",
    place.kind,
    failed ? "lost" : (reach ?? "plain"),
    cutOff ? "cut-off" : "",
    draining && !failed ? "draining" : "",
    selected ? "selected" : "",
    carries ? "carries" : "",
    serves ?? "",
    quiet ? "faded" : "",
    place.serves ? "" : "idle",
  ].join(" ");
  return (
    <a
      href={to("network", "node", place.name)}
      class={classes}
      aria-label={words}
      aria-current={selected ? "true" : undefined}
      tabIndex={place.kind === "server" ? -1 : 0}
    >
      <title>{words}</title>
      <Shape place={place} vips={vips} />
    </a>
  );
}

function Shape({ place, vips }: { place: Place; vips: number }) {
  const { x, y, name, kind } = place;
  if (kind === "server") return <rect x={x - 5.5} y={y - 5.5} width={11} height={11} rx={2.5} />;
  if (kind === "client" || kind === "smux") {
    const wide = Math.max(54, name.length * 7 + 14);
    return (
      <>
        <rect x={x - wide / 2} y={y - 12} width={wide} height={24} rx={kind === "client" ? 12 : 5} />
        <text x={x} y={y + 4}>
          {name}
        </text>
      </>
    );
  }
  return (
    <>
      <rect x={x - 42} y={y - 19} width={84} height={38} rx={7} />
      <text x={x} y={vips ? y - 2 : y + 4.5}>
        {name}
      </text>
      {vips > 0 && (
        <text class="below" x={x} y={y + 12}>
          {vips} {vips === 1 ? "VIP" : "VIPs"}
        </text>
      )}
    </>
  );
}
