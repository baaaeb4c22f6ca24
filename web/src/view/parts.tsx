// Small parts: buttons with an icon, dialogs, images from the database.
import type { ComponentChildren, JSX, VNode } from "preact";
import { cloneElement, Component } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { copyText } from "../lib/copy.ts";
import { objectUrl } from "../store/media.ts";
import { t } from "../text/index.ts";
import { Icon, type IconName } from "./icons.tsx";

interface IconButtonProps {
  icon: IconName;
  label: string;
  onClick?: (event: MouseEvent) => void;
  disabled?: boolean;
  pressed?: boolean;
  class?: string;
}

export function IconButton(props: IconButtonProps): JSX.Element {
  const { icon, label, onClick, disabled, pressed } = props;
  return (
    <button type="button" class={`icon-button ${props.class ?? ""}`} aria-label={label} title={label} aria-pressed={pressed} disabled={disabled} onClick={onClick}>
      <Icon name={icon} />
    </button>
  );
}

export function CopyButton({ text }: { text: () => string }): JSX.Element {
  const [done, setDone] = useState(false);
  const copy = async (): Promise<void> => {
    setDone(await copyText(text()));
    setTimeout(() => setDone(false), 1500);
  };
  return <IconButton icon={done ? "check" : "copy"} label={done ? t("copied") : t("copy")} onClick={() => void copy()} />;
}

/** A modal dialog; Escape and a click outside close it, if it can be closed. */
export function Dialog(props: { title: string; onClose?: () => void; children: ComponentChildren; wide?: boolean; actions?: ComponentChildren }): JSX.Element {
  const box = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = box.current!;
    if (!dialog.open) dialog.showModal();
    return () => dialog.close();
  }, []);
  const outside = (event: MouseEvent): void => {
    if (event.target === box.current) props.onClose?.();
  };
  return (
    <dialog ref={box} class={props.wide ? "wide" : ""} aria-label={props.title} onMouseDown={outside} onCancel={(event) => { event.preventDefault(); props.onClose?.(); }}>
      <div class="dialog-body">
        <header>
          <h2>{props.title}</h2>
          {props.onClose && <IconButton icon="close" label={t("close")} onClick={props.onClose} />}
        </header>
        <div class="dialog-content">{props.children}</div>
        {props.actions && <footer>{props.actions}</footer>}
      </div>
    </dialog>
  );
}

/** A picture whose bytes are in the database. */
export function StoredImage({ blob, alt, class: name }: { blob: string; alt: string; class?: string }): JSX.Element {
  const [url, setUrl] = useState("");
  useEffect(() => {
    let here = true;
    void objectUrl(blob).then((found) => here && setUrl(found));
    return () => { here = false; };
  }, [blob]);
  return url ? <img src={url} alt={alt} class={name} draggable={false} /> : <span class={`blank ${name ?? ""}`} {...(alt ? { role: "img", "aria-label": alt } : {})} />;
}

/** Draws its content again only when one of its properties is another value. */
export abstract class Memo<P extends object> extends Component<P> {
  override shouldComponentUpdate(next: Readonly<P>): boolean {
    const before = this.props as Record<string, unknown>;
    const after = next as Record<string, unknown>;
    return Object.keys({ ...before, ...after }).some((name) => before[name] !== after[name]);
  }
}

/** Shows a sentence in place of content that cannot be drawn, so that the rest of the page lives on. */
export class Guard extends Component<{ children: ComponentChildren }, { fault: string }> {
  override state = { fault: "" };

  override componentDidCatch(error: unknown): void {
    this.setState({ fault: error instanceof Error ? error.message : String(error) });
  }

  override render(): ComponentChildren {
    return this.state.fault ? <div class="problem" role="alert"><p>{t("notDrawn")}</p><p class="detail">{this.state.fault}</p></div> : this.props.children;
  }
}

/** A label, its field and a hint. The field's name is the label alone. */
export function Field({ label, hint, children }: { label: string; hint?: string; children: VNode<object> }): JSX.Element {
  const id = useId();
  return (
    <div class="field">
      <label class="field-label" for={id}>{label}</label>
      {cloneElement(children as VNode<{ id?: string }>, { id, "aria-describedby": hint ? `${id}-hint` : undefined })}
      {hint && <span class="hint" id={`${id}-hint`}>{hint}</span>}
    </div>
  );
}
