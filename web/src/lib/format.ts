// Numbers, times and names for people.

export function rate(bps: number): string {
  if (bps < 1) return "0";
  const units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
  let unit = 0;
  while (bps >= 1000 && unit < units.length - 1) {
    bps /= 1000;
    unit += 1;
  }
  return `${bps < 10 && unit ? bps.toFixed(1) : Math.round(bps)} ${units[unit]}`;
}

export const count = (value: number) => value.toLocaleString("en");

export const percent = (share: number) =>
  `${(100 * share).toLocaleString("en", { maximumFractionDigits: share < 0.1 ? 1 : 0 })}%`;

export function clock(seconds: number, fraction = false): string {
  const date = new Date(seconds * 1000);
  const text = date.toLocaleTimeString("en-GB");
  return fraction ? `${text}.${String(date.getMilliseconds()).padStart(3, "0")}` : text;
}

export function ago(seconds: number): string {
  if (seconds < 1) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function duration(ms: number): string {
  return ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** An address as a number, for order. */
export function numeric(address: string): number {
  return address.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
}

export function isAddress(text: string): boolean {
  const parts = text.split(".");
  return parts.length === 4 && parts.every((p) => /^(0|[1-9]\d{0,2})$/.test(p) && Number(p) < 256);
}

/** Names with their numbers in order: tor2 before tor10. */
export const byName = new Intl.Collator("en", { numeric: true }).compare;

const LISTED = 8;

/** A DIP as the form and the command line take it. */
export function dipText(dip: { address: string; weight?: number; host?: string | null }): string {
  const weight = dip.weight === undefined || dip.weight === 1 ? "" : `*${dip.weight}`;
  return `${dip.address}${weight}${dip.host ? `@${dip.host}` : ""}`;
}

function isNothing(value: unknown): boolean {
  return value === null || value === "" || (typeof value === "object" && !Object.keys(value).length);
}

function text(value: unknown): string {
  if (typeof value === "number" && !Number.isInteger(value)) return value.toFixed(3);
  if (Array.isArray(value)) {
    const more = value.length > LISTED ? ` and ${count(value.length - LISTED)} more` : "";
    return value.slice(0, LISTED).map(text).join(" ") + more;
  }
  if (typeof value !== "object" || value === null) return String(value);
  if ("address" in value) return dipText(value as { address: string });
  return Object.entries(value)
    .filter(([, one]) => !isNothing(one))
    .map(([key, one]) => `${key.replaceAll("_", " ")} ${text(one)}`)
    .join(" ");
}

/** What an event says beside its kind and subject. */
export function detail(values: Record<string, unknown>): string {
  return Object.entries(values)
    .filter(([, value]) => !isNothing(value))
    .map(([key, value]) => `${key.replaceAll("_", " ")} ${text(value)}`)
    .join(", ");
}
