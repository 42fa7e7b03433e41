// Small parts that every view is made of.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { ApiError, said } from "../lib/api";
import { mayWrite, refresh } from "../lib/store";

export function Card(props: { title?: ComponentChildren; tools?: ComponentChildren; children: ComponentChildren; class?: string }) {
  return (
    <section class={`card ${props.class ?? ""}`}>
      {(props.title || props.tools) && (
        <header>
          <h2>{props.title}</h2>
          <div class="tools">{props.tools}</div>
        </header>
      )}
      {props.children}
    </section>
  );
}

export type Tone = "good" | "warn" | "bad" | "info" | "plain";

export function Badge({ tone = "plain", children }: { tone?: Tone; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>;
}

export function Bar({ share, label }: { share: number; label: string }) {
  const tone = share > 0.95 ? "bad" : share > 0.8 ? "warn" : "";
  return (
    <span class="bar" role="img" aria-label={label} title={label}>
      <span class={tone} style={{ width: `${Math.min(100, Math.max(share > 0 ? 1.5 : 0, share * 100))}%` }} />
    </span>
  );
}

export function Failure({ error }: { error: unknown }) {
  if (!error) return null;
  return (
    <div class="failure" role="alert">
      <p>{said(error)}</p>
      {error instanceof ApiError && error.errors.length > 0 && (
        <ul>
          {error.errors.map((one) => (
            <li key={one.where}>
              <code>{one.where}</code>: {one.value && <code>{one.value}</code>} {one.reason}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

interface ButtonProps {
  children: ComponentChildren;
  does: () => Promise<unknown> | void;
  kind?: "primary" | "danger" | "quiet";
  disabled?: boolean;
  title?: string;
  /** Looking changes nothing: allowed without rights. */
  looks?: boolean;
  failed?: (error: unknown) => void;
}

/** A button that is busy until what it does is done. */
export function Button({ children, does, kind, disabled, title, looks, failed }: ButtonProps) {
  const [busy, setBusy] = useState(false);
  const denied = !looks && !mayWrite();
  async function click() {
    setBusy(true);
    failed?.(null);
    try {
      await does();
      if (!looks) await refresh();
    } catch (error) {
      failed?.(error);
    } finally {
      setBusy(false);
    }
  }
  return (
    <button
      type="button"
      class={kind ?? ""}
      disabled={disabled || busy || denied}
      aria-busy={busy}
      title={denied ? "This browser may only look" : title}
      onClick={() => void click()}
    >
      {children}
    </button>
  );
}

export function Field(props: {
  label: string;
  hint?: ComponentChildren;
  error?: string | undefined;
  children: (id: string, described: string | undefined) => ComponentChildren;
}) {
  const id = useId();
  const about = `${id}-about`;
  const described = props.error || props.hint ? about : undefined;
  return (
    <div class={`field${props.error ? " wrong" : ""}`}>
      <label for={id}>{props.label}</label>
      {props.children(id, described)}
      {described && (
        <p id={about} class={props.error ? "error" : "hint"}>
          {props.error ?? props.hint}
        </p>
      )}
    </div>
  );
}

/** A question before something that cannot be taken back. */
export function Dialog(props: { title: string; children: ComponentChildren; close: () => void }) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = element.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog ref={element} onCancel={props.close} onClose={props.close} aria-label={props.title}>
      <h2>{props.title}</h2>
      {props.children}
    </dialog>
  );
}

export function Tabs<Name extends string>(props: { names: readonly Name[]; now: Name; choose: (name: Name) => void }) {
  const { names, now, choose } = props;
  function keyed(event: KeyboardEvent) {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    const next = names[(names.indexOf(now) + step + names.length) % names.length]!;
    choose(next);
    (event.currentTarget as HTMLElement).querySelector<HTMLElement>(`[data-name="${next}"]`)?.focus();
  }
  return (
    <div class="tabs" role="tablist" onKeyDown={keyed}>
      {names.map((name) => (
        <button
          key={name}
          type="button"
          role="tab"
          data-name={name}
          aria-selected={name === now}
          tabIndex={name === now ? 0 : -1}
          onClick={() => choose(name)}
        >
          {name}
        </button>
      ))}
    </div>
  );
}
