// All VIPs: tens of thousands in one list, of which only what is seen is drawn.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { count } from "../lib/format";
import { go, to, type Route } from "../lib/router";
import { mayWrite, useKnown } from "../lib/store";
import type { VipLine } from "../lib/types";
import { Badge, Card, Empty } from "../ui/parts";
import { VipView } from "./vip";
import { VipForm } from "./vipform";

const ROW = 44;
const BEYOND = 8;
const FILTERS = ["All", "On HMuxes", "On SMuxes", "Waiting", "DIPs out"] as const;
type Filter = (typeof FILTERS)[number];

const FITS: Record<Filter, (vip: VipLine) => boolean> = {
  All: () => true,
  "On HMuxes": (vip) => vip.switch !== null,
  "On SMuxes": (vip) => vip.switch === null,
  Waiting: (vip) => vip.waits_for !== null,
  "DIPs out": (vip) => vip.out > 0,
};

export function VipsView({ route }: { route: Route }) {
  const [address] = route.rest;
  if (address === "new") return <VipForm />;
  if (address) return route.rest[1] === "change" ? <VipForm address={address} /> : <VipView address={address} />;
  return <VipList />;
}

export function placeOf(vip: { switch: string | null; waits_for?: string | null }) {
  if (vip.switch) return <Badge tone="info">{vip.switch}</Badge>;
  return (
    <>
      <Badge>SMuxes</Badge> {vip.waits_for && <Badge tone="warn">waits for {vip.waits_for}</Badge>}
    </>
  );
}

function VipList() {
  const known = useKnown();
  const [words, setWords] = useState("");
  const [filter, setFilter] = useState<Filter>("All");
  const found = useMemo(() => {
    const wanted = words.trim().toLowerCase();
    return known.vips.filter(
      (vip) =>
        FITS[filter](vip) &&
        (!wanted ||
          vip.address.includes(wanted) ||
          vip.name?.toLowerCase().includes(wanted) ||
          (vip.switch ?? "smuxes").includes(wanted)),
    );
  }, [known.vips, words, filter]);
  return (
    <Card
      class="vips"
      title={<>VIPs <small>{known.vipsKnown ? count(known.vips.length) : ""}</small></>}
      tools={
        mayWrite() && (
          <a class="button primary" href={to("vips", "new")}>
            Add a VIP
          </a>
        )
      }
    >
      <div class="row filters">
        <input
          type="search"
          placeholder="Address, name or switch"
          aria-label="Search VIPs"
          value={words}
          onInput={(event) => setWords(event.currentTarget.value)}
        />
        <div class="choices" role="group" aria-label="Show">
          {FILTERS.map((name) => (
            <button key={name} type="button" aria-pressed={name === filter} onClick={() => setFilter(name)}>
              {name}
            </button>
          ))}
        </div>
      </div>
      <p class="visually-hidden" role="status">
        {count(found.length)} VIPs
      </p>
      {found.length ? (
        <Rows vips={found} />
      ) : (
        <Empty>{known.vipsKnown ? (known.vips.length ? "No VIP fits." : "There is no VIP yet.") : "Reading the list…"}</Empty>
      )}
    </Card>
  );
}

function Rows({ vips }: { vips: VipLine[] }) {
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const [at, setAt] = useState(0);
  // Which row is to have the focus once it is drawn: an effect of an earlier drawing must not take another for it.
  const wanted = useRef<number | null>(null);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setHeight(entry!.contentRect.height));
    watch.observe(box.current!);
    return () => watch.disconnect();
  }, []);
  useEffect(() => setAt((now) => Math.min(now, vips.length - 1)), [vips]);
  useEffect(() => {
    if (wanted.current === null) return;
    const link = box.current?.querySelector<HTMLElement>(`[data-at="${wanted.current}"] a`);
    if (!link) return; // It is drawn once the list has scrolled there.
    wanted.current = null;
    link.focus({ preventScroll: true });
  });
  const first = Math.max(0, Math.floor(top / ROW) - BEYOND);
  const last = Math.min(vips.length, Math.ceil((top + height) / ROW) + BEYOND);

  function keyed(event: KeyboardEvent) {
    const page = Math.max(1, Math.floor(height / ROW) - 1);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -vips.length, End: vips.length }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = Math.min(vips.length - 1, Math.max(0, at + step));
    setAt(next);
    wanted.current = next;
    const scroll = box.current!;
    if (next * ROW < scroll.scrollTop) scroll.scrollTop = next * ROW;
    else if ((next + 1) * ROW > scroll.scrollTop + height) scroll.scrollTop = (next + 1) * ROW - height;
  }

  return (
    <div class="grid" role="table" aria-rowcount={vips.length + 1} aria-label="VIPs">
      <div class="vip-row header" role="row">
        <span role="columnheader">VIP</span>
        <span role="columnheader">Name</span>
        <span role="columnheader">Lives on</span>
        <span role="columnheader" class="number">
          DIPs
        </span>
        <span role="columnheader">Notes</span>
      </div>
      <div class="body" ref={box} onScroll={(event) => setTop(event.currentTarget.scrollTop)} onKeyDown={keyed}>
        <div role="rowgroup" style={{ height: `${vips.length * ROW}px`, position: "relative" }}>
          {vips.slice(first, last).map((vip, index) => (
            <div
              key={vip.address}
              class="vip-row"
              role="row"
              data-at={first + index}
              aria-rowindex={first + index + 2}
              style={{ transform: `translateY(${(first + index) * ROW}px)` }}
              onClick={() => go("vips", vip.address)}
            >
              <span role="cell">
                <a
                  href={to("vips", vip.address)}
                  tabIndex={first + index === at ? 0 : -1}
                  onFocus={() => setAt(first + index)}
                >
                  {vip.address}
                </a>
              </span>
              <span role="cell" class="cut">
                {vip.name}
              </span>
              <span role="cell">{placeOf(vip)}</span>
              <span role="cell" class="number">
                {count(vip.dips)}
              </span>
              <span role="cell" class="notes">
                {vip.out > 0 && <Badge tone="bad">{vip.out} out</Badge>}
                {vip.tips > 0 && <Badge>{vip.tips} TIPs</Badge>}
                {vip.pinned > 0 && <Badge>{vip.pinned} pinned</Badge>}
                {vip.held && <Badge>by hand</Badge>}
              </span>
            </div>
          ))}
        </div>
      </div>
    </div>
  );
}
