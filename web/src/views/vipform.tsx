// A VIP by form: a new one, or another state of one that is there.

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, call } from "../lib/api";
import { useRecord } from "../lib/record";
import { go, to } from "../lib/router";
import { refresh, useKnown } from "../lib/store";
import { type CheckOption, CHECKS, type Draft, draftOf, EMPTY, specOf, type Wrong } from "../lib/vipspec";
import { Card, Failure, Field } from "../ui/parts";

export function VipForm({ address }: { address?: string }) {
  const known = useKnown();
  const { record, error: unread } = useRecord(address ?? "", known);
  const [draft, setDraft] = useState<Draft>(EMPTY);
  const [wrong, setWrong] = useState<Wrong>({});
  const [failure, setFailure] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const [base, setBase] = useState<number | null>(null);
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => {
    if (!record || base !== null) return;
    setDraft(draftOf(record.spec));
    setBase(record.revision);
  }, [record]);
  const set =
    <Name extends keyof Draft>(name: Name) =>
    (value: Draft[Name]) =>
      setDraft((before) => ({ ...before, [name]: value }));

  async function submit(event: Event) {
    event.preventDefault();
    const { spec, wrong: found } = specOf(draft, record?.spec ?? null);
    setWrong(found);
    setFailure(null);
    if (!spec) {
      queueMicrotask(() => form.current?.querySelector<HTMLElement>(".wrong input, .wrong textarea")?.focus());
      return;
    }
    setBusy(true);
    try {
      if (address) await call("PUT", `/v1/vips/${address}`, spec, base ?? undefined);
      else await call("POST", `/v1/vips${draft.place ? `?switch=${encodeURIComponent(draft.place)}` : ""}`, spec);
      await refresh();
      go("vips", spec.address);
    } catch (error) {
      setFailure(error);
    } finally {
      setBusy(false);
    }
  }

  if (address && !record) return <Card title={address}>{unread ? <Failure error={unread} /> : <p class="loading">Reading…</p>}</Card>;
  const text = (name: "address" | "name" | "checkPort" | CheckOption, extra: Record<string, unknown> = {}) => (id: string, about: string | undefined) => (
    <input
      id={id}
      value={draft[name]}
      aria-describedby={about}
      aria-invalid={Boolean(wrong[name])}
      autocomplete="off"
      spellcheck={false}
      onInput={(event) => set(name)(event.currentTarget.value)}
      {...extra}
    />
  );
  const area = (name: "dips" | "ports", rows: number, placeholder: string) => (id: string, about: string | undefined) => (
    <textarea
      id={id}
      rows={rows}
      value={draft[name]}
      placeholder={placeholder}
      aria-describedby={about}
      aria-invalid={Boolean(wrong[name])}
      spellcheck={false}
      onInput={(event) => set(name)(event.currentTarget.value)}
    />
  );
  return (
    <Card class="narrow" title={address ? `Change VIP ${address}` : "Add a VIP"}>
      <form ref={form} onSubmit={(event) => void submit(event)} noValidate>
        <Failure error={failure} />
        {failure instanceof ApiError && failure.status === 412 && (
          <p class="actions">
            <a class="button" href={to("vips", address ?? "")}>
              Look at what it is now
            </a>
          </p>
        )}
        {!address && (
          <Field label="Address" error={wrong.address} hint={`Within ${known.inventory?.vip_prefix ?? "the VIP prefix"}`}>
            {text("address", { placeholder: "10.0.0.9", inputMode: "decimal", autofocus: true })}
          </Field>
        )}
        <Field label="Name" error={wrong.name} hint="For people; may be empty">
          {text("name")}
        </Field>
        <Field label="DIPs" error={wrong.dips} hint="One a line; *3 is a weight, *0 drains it, @HOST the host of a virtual machine">
          {area("dips", 5, "100.1.1.17\n100.1.2.17*3")}
        </Field>
        <Field label="Ports with DIPs of their own" error={wrong.ports} hint="One a line: tcp/80 and its DIPs">
          {area("ports", 2, "tcp/80 100.1.1.33 100.1.2.33")}
        </Field>
        <div class="row">
          <Field label="Health check">
            {(id) => (
              <select id={id} value={draft.check} onChange={(event) => set("check")(event.currentTarget.value as Draft["check"])}>
                <option value="none">none</option>
                {Object.entries(CHECKS).map(([kind, { about }]) => (
                  <option key={kind} value={kind}>
                    {about}
                  </option>
                ))}
              </select>
            )}
          </Field>
          {draft.check !== "none" && (
            <Field label="Port" error={wrong.checkPort}>
              {text("checkPort", { inputMode: "numeric", size: 6 })}
            </Field>
          )}
          {draft.check !== "none" &&
            CHECKS[draft.check].options.map(([field, , label]) => (
              <Field key={field} label={label}>
                {text(field)}
              </Field>
            ))}
        </div>
        {!address && (
          <Field label="Where" hint="By hand it stays there, until it is released to the engine">
            {(id, about) => (
              <select id={id} aria-describedby={about} value={draft.place} onChange={(event) => set("place")(event.currentTarget.value)}>
                <option value="">where the engine says</option>
                <option value="smux">on the SMuxes, by hand</option>
                {known.inventory?.switches.map((one) => (
                  <option key={one.name} value={one.name}>
                    on {one.name}, by hand
                  </option>
                ))}
              </select>
            )}
          </Field>
        )}
        <label class="inline check">
          <input type="checkbox" checked={draft.snat} onChange={(event) => set("snat")(event.currentTarget.checked)} /> Connections of its
          DIPs leave with the VIP as source (SNAT)
        </label>
        <div class="actions">
          <button type="submit" class="primary" disabled={busy} aria-busy={busy}>
            {address ? "Change it" : "Add it"}
          </button>
          <a class="button" href={address ? to("vips", address) : to("vips")}>
            Leave it
          </a>
        </div>
      </form>
    </Card>
  );
}
