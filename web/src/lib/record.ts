// One VIP's record, read anew whenever its line in the listing changes.

import { useEffect, useMemo, useState } from "preact/hooks";
import { get } from "./api";
import { highlightOf, type Highlight } from "./highlight";
import type { Known } from "./store";
import type { VipRecord } from "./types";

export function useRecord(address: string, known: Known): { record: VipRecord | null; error: unknown } {
  const [found, setFound] = useState<{ record: VipRecord | null; error: unknown }>({ record: null, error: null });
  const line = known.vips.find((vip) => vip.address === address);
  const stamp = JSON.stringify(line ?? null);
  useEffect(() => {
    let wanted = true;
    if (!address) return () => undefined;
    get<VipRecord>(`/v1/vips/${address}`).then(
      (record) => wanted && setFound({ record, error: null }),
      (error: unknown) => wanted && setFound({ record: null, error }),
    );
    return () => {
      wanted = false;
    };
  }, [address, stamp, known.away]);
  const record = found.record?.spec.address === address ? found.record : null;
  return { record, error: found.error };
}

export function useHighlight(address: string, known: Known): Highlight | null {
  const { record } = useRecord(address, known);
  const { inventory, links, traffic } = known;
  return useMemo(
    () => (address && record && inventory ? highlightOf(record, inventory, links, traffic) : null),
    [address, record, inventory, links, traffic],
  );
}
