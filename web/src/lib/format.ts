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

export function detail(values: Record<string, unknown>): string {
  return Object.entries(values)
    .filter(([, value]) => value !== null && value !== "" && !(Array.isArray(value) && !value.length))
    .map(([key, value]) => {
      const text = typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : String(value);
      return `${key.replaceAll("_", " ")} ${text}`;
    })
    .join(", ");
}
