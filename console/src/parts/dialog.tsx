// A modal dialog: the browser's own, which keeps the focus, closes with Escape and gives the focus back.

import { type FormEvent, type ReactNode, useEffect, useId, useRef } from "react";
import { ErrorNotice } from "./notice.tsx";

export interface DialogProps {
  readonly title: string;
  readonly onClose: () => void;
  readonly children: ReactNode;
  readonly isWide?: boolean;
}

/** Shown as long as it is rendered. */
export function Dialog({ title, onClose, children, isWide = false }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  const titleId = useId();
  useEffect(() => {
    const dialog = element.current!;
    if (!dialog.open) {
      dialog.showModal();
    }
    return () => dialog.close();
  }, []);
  return (
    <dialog
      ref={element}
      className={isWide ? "wide" : ""}
      aria-labelledby={titleId}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
    >
      <header>
        <h2 id={titleId}>{title}</h2>
        <button type="button" className="quiet icon" aria-label="Close" onClick={onClose}>
          ✕
        </button>
      </header>
      {children}
    </dialog>
  );
}

interface FormDialogProps extends DialogProps {
  readonly action: string;
  readonly isDanger?: boolean;
  readonly isPending: boolean;
  readonly isDisabled?: boolean;
  readonly error: Error | null;
  readonly onSubmit: () => void;
}

/** One that asks for something and does it. */
export function FormDialog(props: FormDialogProps) {
  const submit = (event: FormEvent) => {
    event.preventDefault();
    props.onSubmit();
  };
  return (
    <Dialog title={props.title} onClose={props.onClose} isWide={props.isWide ?? false}>
      <form onSubmit={submit}>
        <div className="dialog-body">
          {props.children}
          {props.error && <ErrorNotice error={props.error} />}
        </div>
        <footer>
          <button type="button" onClick={props.onClose}>
            {props.isPending ? "Leave it running" : "Cancel"}
          </button>
          <button
            type="submit"
            className={props.isDanger ? "danger" : "primary"}
            disabled={props.isPending || props.isDisabled}
          >
            {props.isPending ? "Working…" : props.action}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
